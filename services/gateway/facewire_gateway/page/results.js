// The table of results: the newest of the history first, then each answer as it comes.
import { call, events } from "./api.js";
import { $, element, number, time } from "./dom.js";

const MAX_ROWS = 100;
const RETRY_MS = 2000;

let lastId = null;
let stream = null;

export async function followResults() {
  stream?.abort();
  const mine = new AbortController();
  stream = mine;
  lastId = null;
  while (!mine.signal.aborted) {
    try {
      await follow(mine.signal);
      connection("down", "disconnected, trying again");
    } catch (error) {
      if (mine.signal.aborted) return;
      connection("down", error.message);
      if (error.status === 401 || error.status === 403) return;
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

async function follow(signal) {
  for await (const found of events("/v1/events", lastId, signal)) {
    if (found.event === "open") {
      connection("up", "live");
      if (!lastId) await readHistory();
    } else if (found.event === "overflow") {
      await readHistory();
    } else if (found.event === "result") {
      put(JSON.parse(found.data));
    }
    lastId = found.id ?? lastId;
  }
}

async function readHistory() {
  const { results } = await call("/v1/results?limit=50");
  $("results").tBodies[0].replaceChildren();
  results.reverse().forEach(put);
}

function put(answer) {
  const body = $("results").tBodies[0];
  [...body.rows].find((row) => row.dataset.id === answer.request_id)?.remove();
  body.prepend(row(answer));
  while (body.rows.length > MAX_ROWS) body.lastElementChild.remove();
}

function row(answer) {
  const faces = answer.faces ?? [];
  const leading = faces.find((face) => face.known) ?? faces[0];
  const made = element("tr", {},
    element("td", { text: time(answer.answered_at ?? answer.received_at) }),
    element("td", { text: answer.camera ?? "–" }),
    element("td", { text: answer.result ?? answer.status, className: leading?.known ? "known" : answer.status }),
    element("td", { text: faces.length }),
    element("td", { text: number(leading?.similarity) }),
    element("td", { text: why(answer, leading), className: "long" }),
    element("td", { text: number(answer.timings_ms?.total, 0) }),
    element("td", { text: answer.request_id, className: "long" }));
  made.dataset.id = answer.request_id;
  return made;
}

function why(answer, leading) {
  if (answer.error) return `${answer.error.stage}: ${answer.error.code}: ${answer.error.detail}`;
  const enrolled = answer.enrolled;
  if (enrolled) return enrolled.face_id ? `enrolled ${enrolled.person}` : `refused: ${enrolled.refused.join(", ")}`;
  return leading?.reason ?? "";
}

function connection(state, text) {
  $("connection").className = state;
  $("connection").textContent = text;
}
