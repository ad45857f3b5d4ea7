// The API's own description (OpenAPI) as a page.
import { $, element } from "./dom.js";

const description = await (await fetch("/openapi.json")).json();

const lookUp = (schema) => {
  const name = schema?.$ref?.split("/").pop();
  return name ? { name, ...description.components.schemas[name] } : schema ?? {};
};

const typeOf = (schema) => {
  const found = lookUp(schema);
  const choice = found.anyOf ?? found.oneOf;
  if (choice) return choice.map(typeOf).join(" or ");
  if (found.enum) return found.enum.join(", ");
  if (found.type === "array") return `list of ${typeOf(found.items)}`;
  return [found.name ?? found.type ?? "any", found.format].filter(Boolean).join(", ");
};

const limits = (schema) =>
  ["minimum", "maximum", "maxLength", "default"]
    .filter((key) => schema?.[key] !== undefined && schema[key] !== null)
    .map((key) => `${key} ${schema[key]}`)
    .join(", ");

function table(caption, titles, rows) {
  const head = element("tr", {}, ...titles.map((text) => element("th", { text, scope: "col" })));
  const body = rows.map((cells) => element("tr", {}, ...cells.map((text) => element("td", { text, className: "long" }))));
  return element("table", {}, element("caption", { text: caption }), element("thead", {}, head), element("tbody", {}, ...body));
}

function parameters(list) {
  const rows = list.map(({ name, in: place, schema, description: text, required }) =>
    [name, place, typeOf(schema), [required ? "required" : "", text, limits(schema)].filter(Boolean).join("; ")]);
  return table("Parameters", ["Name", "In", "Type", ""], rows);
}

function bodies(content) {
  const rows = Object.entries(content).map(([kind, { schema }]) => {
    const { properties = {} } = lookUp(schema);
    const fields = Object.entries(properties).map(([name, field]) => `${name} (${field.description ?? typeOf(field)})`);
    return [kind, fields.join("; ") || typeOf(schema)];
  });
  return table("Body", ["Content-Type", "Fields"], rows);
}

function responses(list) {
  const rows = Object.entries(list).map(([status, { description: text, content = {} }]) =>
    [status, text, Object.entries(content).map(([kind, { schema }]) => `${kind}: ${typeOf(schema)}`).join("; ")]);
  return table("Answers", ["Status", "", "Body"], rows);
}

function shown(method, path, operation) {
  const made = element("article", {},
    element("h2", { text: `${method.toUpperCase()} ` }, element("code", { text: path })),
    ...(operation.description ?? "").split("\n\n").map((text) => element("p", { text })));
  if (operation.parameters) made.append(parameters(operation.parameters));
  if (operation.requestBody) made.append(bodies(operation.requestBody.content));
  made.append(responses(operation.responses));
  return made;
}

function schemaShown([name, schema]) {
  const rows = Object.entries(schema.properties ?? {}).map(([field, value]) => [field, typeOf(value), value.description ?? ""]);
  const text = (schema.description ?? "").split("\n\n")[0];
  return element("article", {}, element("h2", {}, element("code", { text: name })), element("p", { text }), table("Fields", ["Name", "Type", ""], rows));
}

const calls = Object.entries(description.paths).flatMap(([path, operations]) =>
  Object.entries(operations).map(([method, operation]) => shown(method, path, operation)));
$("calls").replaceChildren(...calls, ...Object.entries(description.components.schemas).map(schemaShown));
$("calls").removeAttribute("aria-busy");
