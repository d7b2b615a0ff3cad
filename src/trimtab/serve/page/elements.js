// Makes elements of the page. Texts are only ever set as text, so that nothing a model writes is read as markup.

/** An element with properties (`class` and names with a hyphen or `role` as attributes) and children. */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class" || name === "role" || name.includes("-")) made.setAttribute(name, value);
    else made[name] = value;
  }
  made.append(...children);
  return made;
}

let count = 0;

/** An id that no other element has. */
export const newId = () => `e${++count}`;

/** A number as readers see it: three digits, a true minus sign. */
export function shown(number) {
  if (number === null || number === undefined) return "–";
  return number.toFixed(2).replace("-", "−");
}

const PREFIXES = [[1e15, " P"], [1e12, " T"], [1e9, " G"], [1e6, " M"], [1e3, " k"]];

/** A large number in three digits and a prefix, such as `1.62 T`. */
export function large(number) {
  const [size, prefix] = PREFIXES.find(([least]) => number >= least) ?? [1, ""];
  return `${(number / size).toPrecision(3)}${prefix}`;
}
