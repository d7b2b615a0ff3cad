// Sliders with a number beside each, and the link that holds everything an answer depends on.

import { element, newId } from "./elements.js";

/** Sampling, for all decoders. `least` and `most` are the slider's ends; a number beyond them can be typed. */
export const SAMPLING = [
  { name: "temperature", label: "Temperature", least: 0, most: 2, step: 0.05, floor: 0 },
  { name: "top_p", label: "Top-p", least: 0.05, most: 1, step: 0.05, floor: 0.000001, ceiling: 1 },
  { name: "top_k", label: "Top-k", least: 0, most: 200, step: 1, floor: 0, hint: "0: all tokens" },
  { name: "max_tokens", label: "Max tokens", least: 1, most: 256, step: 1, floor: 1 },
  { name: "seed", label: "Seed", least: 0, most: 9999, step: 1, floor: 0, ceiling: Number.MAX_SAFE_INTEGER },
];

/** The search of one decoder, by the names of the papers. */
export const SEARCH = [
  { name: "width", label: "Width W", least: 1, most: 16, step: 1, floor: 1, hint: "beams" },
  { name: "successors", label: "Successors K", least: 1, most: 32, step: 1, floor: 1, hint: "of each beam" },
  { name: "chunk", label: "Chunk L", least: 0, most: 64, step: 1, floor: 0, hint: "tokens; 0: whole answers" },
  { name: "beta", label: "Beta", least: 0, most: 2, step: 0.05, hint: "of EFT; 0: none" },
];

/** A row of sliders in `place`. `values` reads and sets their numbers by name. */
export class Sliders {
  constructor(place, settings) {
    this.inputs = {};
    for (const setting of settings) place.append(this.#row(setting));
  }

  get values() {
    return Object.fromEntries(Object.entries(this.inputs).map(([name, { number }]) => [name, Number(number.value)]));
  }

  set values(values) {
    for (const [name, value] of Object.entries(values)) {
      if (this.inputs[name]) this.inputs[name].number.value = this.inputs[name].range.value = value;
    }
  }

  #row({ name, label, least, most, step, floor, ceiling, hint }) {
    const id = newId(), hinted = newId();
    const range = element("input", { type: "range", min: least, max: most, step, "aria-labelledby": id });
    const number = element("input", { type: "number", id: newId(), step: step < 1 ? "any" : 1, required: true, name });
    if (floor !== undefined) number.min = floor;
    if (ceiling !== undefined) number.max = ceiling;
    range.addEventListener("input", () => (number.value = range.value));
    number.addEventListener("input", () => (range.value = number.value));
    this.inputs[name] = { range, number };
    const words = element("span", {}, element("label", { id, htmlFor: number.id }, label));
    if (hint) {
      words.append(" ", element("small", { id: hinted }, hint));
      for (const input of [range, number]) input.setAttribute("aria-describedby", hinted);
    }
    return element("div", { class: "slider" }, words, range, number);
  }
}

/** The fragment of the address that holds `asked`: it stays in the browser, and in no server's log. */
export function written({ prompt, as, sampling, decoders }) {
  const fields = new URLSearchParams({ prompt, as, ...sampling });
  for (const decoder of decoders) fields.append("decoder", JSON.stringify(decoder));
  return `#${fields}`;
}

/** What a fragment holds; null where it is no link of this page. */
export function read(fragment) {
  const fields = new URLSearchParams(fragment.slice(1));
  if (!fields.has("prompt") || !fields.has("decoder")) return null;
  try {
    const decoders = fields.getAll("decoder").map((text) => {
      const { model, ...settings } = JSON.parse(text);
      return { model: String(model), ...numbers(SEARCH, (name) => settings[name]) };
    });
    const sampling = numbers(SAMPLING, (name) => fields.get(name) ?? undefined);
    return { prompt: fields.get("prompt"), as: fields.get("as") === "chat" ? "chat" : "text", sampling, decoders };
  } catch {
    return null;
  }
}

function numbers(settings, valueOf) {
  const found = settings.map(({ name }) => [name, valueOf(name)]).filter(([, value]) => value !== undefined);
  return Object.fromEntries(found.map(([name, value]) => [name, Number(value)]).filter(([, value]) => isFinite(value)));
}
