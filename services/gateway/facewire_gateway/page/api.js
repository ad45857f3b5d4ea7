// Calls of the HTTP API. The key stays in this tab: sessionStorage ends with it.
const KEY = "facewire-key";

export class ApiError extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `HTTP ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

export const currentKey = () => sessionStorage.getItem(KEY) || "";

export function useKey(key) {
  if (key) sessionStorage.setItem(KEY, key);
  else sessionStorage.removeItem(KEY);
}

async function send(path, options = {}) {
  const headers = new Headers(options.headers);
  if (currentKey()) headers.set("Authorization", `Bearer ${currentKey()}`);
  const response = await fetch(path, { ...options, headers });
  if (response.ok) return response;
  throw new ApiError(response.status, await response.json().catch(() => ({})));
}

export const call = async (path, options) => (await send(path, options)).json();

// Yields {event, id, data} of a stream of server-sent events until it ends. EventSource cannot send a key.
export async function* events(path, lastId, signal) {
  const headers = lastId ? { "Last-Event-ID": lastId } : {};
  const response = await send(path, { headers, signal });
  yield { event: "open" };
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let text = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const blocks = (text + value).split("\n\n");
    text = blocks.pop();
    yield* blocks.map(parse).filter((found) => found.data);
  }
}

function parse(block) {
  const found = { event: "message" };
  for (const line of block.split("\n")) {
    const [, field, value] = /^(event|id|data): ?(.*)$/.exec(line) || [];
    if (field) found[field] = value;
  }
  return found;
}
