// The little that all parts of the page need to write into it. Text only: nothing from the server becomes markup.
export const $ = (id) => document.getElementById(id);

export function element(name, { text, className, ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (text !== undefined) made.textContent = text;
  if (className) made.className = className;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export const number = (value, digits = 3) => (typeof value === "number" ? value.toFixed(digits) : "–");

export const time = (value) => (value ? new Date(value).toLocaleString() : "–");

export function showProblem(error) {
  $("problem").hidden = !error;
  $("problem").textContent = error ? error.message : "";
}

// Runs `work` when the form is sent, with its button disabled meanwhile and what fails shown.
export function onSubmit(form, work) {
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const button = form.querySelector("button");
    button.disabled = true;
    showProblem(null);
    try {
      await work();
    } catch (error) {
      showProblem(error);
    } finally {
      button.disabled = false;
    }
  });
}
