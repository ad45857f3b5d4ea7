// The gallery: who is in it, enrol, delete.
import { ApiError, call } from "./api.js";
import { $, element, number, onSubmit, showProblem, time } from "./dom.js";

const path = (person) => `/v1/people/${encodeURIComponent(person)}`;

export function startPeople() {
  onSubmit($("enrol-form"), enrol);
}

export async function listPeople() {
  const { people } = await call("/v1/people");
  $("people").tBodies[0].replaceChildren(...people.map(row));
}

function row(found) {
  const button = element("button", { text: "Delete", "aria-label": `Delete ${found.person}` });
  button.addEventListener("click", () => remove(found.person).catch(showProblem));
  return element("tr", {},
    element("td", { text: found.person, className: "long" }),
    element("td", { text: found.faces.length }),
    element("td", { text: time(found.enrolled_at) }),
    element("td", {}, button));
}

async function remove(person) {
  if (!confirm(`Delete ${person}, with all faces and the name in the history?`)) return;
  await call(path(person), { method: "DELETE" });
  await listPeople();
}

async function enrol() {
  const person = $("enrol-name").value.trim();
  const body = new FormData();
  for (const file of $("enrol-files").files) body.append("file", file);
  $("enrol-outcome").replaceChildren(element("li", { text: "Enrolling …" }));
  try {
    const answer = await call(`${path(person)}/faces`, { method: "POST", body });
    showOutcomes(answer.faces ?? [answer]);
    $("enrol-form").reset();
  } catch (error) {
    $("enrol-outcome").replaceChildren();
    if (!(error instanceof ApiError && error.problem.refused)) throw error;
    showOutcomes([{ status: "refused", filename: $("enrol-files").files[0].name, refused: error.problem.refused }]);
  }
  await listPeople();
}

function showOutcomes(outcomes) {
  $("enrol-outcome").replaceChildren(...outcomes.map((outcome) =>
    element("li", { text: `${outcome.filename}: ${words(outcome)}`, className: outcome.status === "enrolled" ? "" : "refused" })));
}

function words(outcome) {
  if (outcome.status === "refused") return `refused: ${outcome.refused.join(", ")}`;
  if (outcome.status === "failed") return outcome.error.detail;
  if (outcome.status === "pending") return "not known yet";
  const alike = outcome.looks_like;
  return alike ? `enrolled, but looks like ${alike.person} (${number(alike.similarity)})` : "enrolled";
}
