// One picture: sent, shown with a box around each face, and told in words.
import { call } from "./api.js";
import { $, element, number, onSubmit } from "./dom.js";

const POLLS = 10;

export function startTry() {
  $("try-file").addEventListener("change", preview);
  onSubmit($("try-form"), recognise);
}

function preview() {
  const [file] = $("try-file").files;
  const image = $("preview-image");
  URL.revokeObjectURL(image.src);
  $("preview").hidden = !file;
  $("faces").hidden = true;
  $("preview-boxes").replaceChildren();
  $("preview-caption").textContent = "";
  if (file) image.src = URL.createObjectURL(file);
}

async function recognise() {
  const [file] = $("try-file").files;
  $("preview-caption").textContent = "Looking for faces …";
  try {
    show(await answerTo(file));
  } catch (error) {
    $("preview-caption").textContent = "";
    throw error;
  }
}

async function answerTo(file) {
  const body = new FormData();
  body.append("file", file);
  let answer = await call("/v1/frames?wait=30", { method: "POST", body });
  for (let poll = 0; answer.status === "pending" && poll < POLLS; poll += 1) {
    answer = await call(`/v1/results/${encodeURIComponent(answer.request_id)}?wait=30`);
  }
  return answer;
}

function show(answer) {
  const failure = answer.error ? `: ${answer.error.detail}` : "";
  const total = answer.timings_ms?.total;
  $("preview-caption").textContent = `${answer.result ?? "Still pending"}${failure}${total ? ` (${number(total, 0)} ms)` : ""}`;
  const faces = answer.faces ?? [];
  $("faces").hidden = !faces.length;
  $("faces").tBodies[0].replaceChildren(...faces.map(row));
  if (answer.frame) draw(answer.frame, faces);
}

const name = (face) => (face.known ? face.person : `Unknown${face.reason ? ` (${face.reason})` : ""}`);

function row(face) {
  const other = face.nearest ?? face.runner_up;
  return element("tr", {},
    element("td", { text: face.index + 1 }),
    element("td", { text: name(face), className: face.known ? "known" : "" }),
    element("td", { text: number(face.similarity) }),
    element("td", { text: other ? `${other.person} ${number(other.similarity)}` : "–" }),
    element("td", { text: number(face.confidence, 4) }));
}

function draw(frame, faces) {
  const svg = $("preview-boxes");
  svg.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  svg.replaceChildren(...faces.flatMap((face) => box(face, frame)));
}

function box(face, frame) {
  const [x1, y1, x2, y2] = face.box;
  const size = frame.width / 40;
  const rect = drawn("rect", { x: x1, y: y1, width: x2 - x1, height: y2 - y1, class: face.known ? "known" : "" });
  const label = drawn("text", { x: Math.max(0, x1), y: Math.max(size, y1 - size / 3), "font-size": size });
  label.textContent = face.known ? face.person : face.index + 1;
  return [rect, label];
}

function drawn(kind, attributes) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}
