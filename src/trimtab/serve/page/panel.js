// One decoder: its name and search, what it writes, what that is worth and has cost, and how it came to it.

import { events, model, Refusal } from "./client.js";
import { element, large, newId, shown } from "./elements.js";
import { SEARCH, Sliders } from "./settings.js";
import { SearchTree } from "./tree.js";

const CHUNK_OF_WHOLE_ANSWERS = 0;
const FACTS = [
  "Value", "Reward", "Tokens returned", "Tokens drawn", "Time", "First text", "FLOPs", "Finish", "Decoder",
];

export class Panel {
  /**
   * `cards`: the listed models. `reward`: the unit of the reward, null where there is none. `page` has `ask()`, which
   * gives route, prompt and sampling, or null; `say(text)`; `changed()`, called where the panel begins or ends; and
   * `removed(panel)`.
   */
  constructor(cards, reward, page) {
    this.reward = reward;
    this.facts = new Map();
    this.page = page;
    this.cards = new Map(cards.map((card) => [card.id, card]));
    this.#build();
  }

  /** The model's name and the settings that differ from its own. */
  get decoder() {
    const own = this.#own(), values = this.sliders.values;
    const changed = SEARCH.map(({ name }) => name).filter((name) => values[name] !== own[name]);
    return { model: this.name.value, ...Object.fromEntries(changed.map((name) => [name, values[name]])) };
  }

  /** Choose a model, listed or not, and change settings of its search. Raises Refusal where there is no such model. */
  async choose({ model: name, ...settings }) {
    if (!this.cards.has(name)) this.#offer(await model(name));
    this.name.value = name;
    this.#describe();
    this.sliders.values = settings;
  }

  get running() {
    return this.stopping !== null;
  }

  stop() {
    this.stopping?.abort();
  }

  /** Show why there is no answer, in a line. */
  fail(message) {
    this.fault.textContent = message;
    this.fault.hidden = false;
  }

  /** Write, unless something on the page is not filled in as it must be. */
  async write() {
    const asked = this.page.ask();
    if (!asked || this.running) return;
    this.#begin();
    const started = performance.now();
    let ended = "";
    try {
      for await (const event of events(asked.route, this.#body(asked), this.stopping.signal)) {
        this.#take(event, performance.now() - started);
      }
      ended = this.#finish();
    } catch (error) {
      if (error.name === "AbortError") {
        ended = "stopped";
        this.#fact("Finish", "stopped by you");
      } else if (error instanceof Refusal) {
        this.fail(error.message);
        ended = `failed: ${error.message}`;
      } else throw error;
    } finally {
      this.#end(performance.now() - started);
      this.page.changed();
      this.page.say(`${this.name.value} ${ended}`);
    }
  }

  #body({ prompt, as, sampling }) {
    const { model: name, ...settings } = this.decoder, { width, successors } = this.sliders.values;
    if (settings.chunk === CHUNK_OF_WHOLE_ANSWERS) settings.chunk = null;
    const { max_tokens, ...drawing } = sampling;
    const asked = as === "chat"
      ? { messages: [{ role: "user", content: prompt }], max_completion_tokens: max_tokens }
      : { prompt, max_tokens };
    return {
      model: name, ...asked, ...drawing, stream: true, stream_options: { include_usage: true },
      trimtab: { ...settings, steps: width * successors > 1, reward: this.reward !== null },
    };
  }

  #begin() {
    this.stopping = new AbortController();
    this.text.setAttribute("aria-busy", "true");
    this.settled.textContent = this.tentative.textContent = "";
    this.fault.hidden = true;
    this.facts.clear();
    this.numbers.replaceChildren();
    this.report = this.usage = this.reason = null;
    this.branches.replaceWith((this.branches = element("ul", { role: "tree", "aria-label": "Candidates" })));
    this.tree = new SearchTree(this.branches);
    this.search.hidden = true;
    const { width, successors, chunk } = this.sliders.values;
    const samples = chunk === CHUNK_OF_WHOLE_ANSWERS ? width * successors : 1; // which share no text before they end
    const words = `${samples} answers are being written; the best one is shown at their end.`;
    this.waiting.textContent = samples > 1 ? words : "";
    this.button.textContent = "Stop";
    this.section.classList.add("writing");
    this.page.changed();
  }

  #take(event, milliseconds) {
    const choice = event.choices[0], piece = choice?.delta?.content ?? choice?.text ?? "";
    if (piece && !this.settled.textContent) this.#fact("First text", time(milliseconds));
    this.settled.append(piece);
    this.reason = choice?.finish_reason ?? this.reason;
    this.usage = event.usage ?? this.usage;
    if (event.trimtab?.step) this.#grow(event.trimtab.step);
    else this.report = event.trimtab ?? this.report;
    const settled = this.settled.textContent, leader = this.tree.leader;
    this.tentative.textContent = leader.startsWith(settled) ? leader.slice(settled.length) : "";
  }

  #grow(step) {
    this.tree.add(step);
    this.search.hidden = false;
    this.searched.textContent = `Search: ${plural(this.tree.steps, "step")}, ${plural(this.tree.count, "candidate")}`;
  }

  /** What readers of the status hear. */
  #finish() {
    const { report, usage } = this, [value] = report.values, reward = report.rewards?.[0];
    this.tentative.textContent = "";
    this.tree.finish(this.settled.textContent);
    if (value !== null) this.#fact("Value", shown(value));
    if (report.rewards) this.#fact("Reward", reward === null ? "none" : `${shown(reward)} ${this.reward}`);
    this.#fact("Tokens returned", usage.completion_tokens);
    this.#fact("Tokens drawn", report.tokens_drawn);
    this.#fact("FLOPs", large(report.flops));
    this.#fact("Finish", this.reason);
    this.#fact("Decoder", report.decoder);
    return `has ended: ${plural(usage.completion_tokens, "token")}${value === null ? "" : `, value ${shown(value)}`}`;
  }

  #end(milliseconds) {
    this.stopping = null;
    this.waiting.textContent = "";
    this.text.removeAttribute("aria-busy");
    this.button.textContent = "Write";
    this.section.classList.remove("writing");
    if (this.fault.hidden) this.#fact("Time", time(milliseconds));
  }

  #fact(name, value) {
    this.facts.set(name, element("div", {}, element("dt", {}, name), element("dd", {}, String(value))));
    this.numbers.replaceChildren(...FACTS.filter((each) => this.facts.has(each)).map((each) => this.facts.get(each)));
  }

  #own() {
    const { width, successors, chunk, beta } = this.cards.get(this.name.value).trimtab;
    return { width, successors, chunk: chunk ?? CHUNK_OF_WHOLE_ANSWERS, beta: beta ?? 0 };
  }

  #offer(card) {
    this.cards.set(card.id, card);
    this.name.append(element("option", {}, card.id));
  }

  #describe() {
    this.sliders.values = this.#own();
    this.words.textContent = this.cards.get(this.name.value).description;
    this.title.textContent = this.name.value;
  }

  #build() {
    const named = newId(), titled = newId();
    this.stopping = null;
    this.title = element("h2", { class: "unseen", id: titled });
    this.name = element("select", { id: named });
    for (const card of this.cards.values()) this.#offer(card);
    this.name.addEventListener("change", () => this.#describe());
    this.words = element("p", { class: "words" });
    this.button = element("button", { type: "button", "aria-describedby": titled }, "Write");
    this.button.addEventListener("click", () => (this.running ? this.stop() : this.write()));
    const remove = element("button", { type: "button", "aria-describedby": titled }, "Remove");
    remove.addEventListener("click", () => {
      this.stop();
      this.section.remove();
      this.page.removed(this);
    });
    const sliders = element("div", { class: "sliders" });
    this.sliders = new Sliders(sliders, SEARCH);
    this.settled = element("span", { class: "settled" });
    this.tentative = element("span", { class: "tentative" });
    this.text = element("p", { class: "text", dir: "auto" }, this.settled, this.tentative);
    this.waiting = element("p", { class: "words" });
    this.fault = element("p", { class: "fault", hidden: true });
    this.numbers = element("dl", { class: "numbers" });
    this.searched = element("summary");
    this.branches = element("ul");
    this.search = element("details", { class: "search", open: true, hidden: true }, this.searched, this.branches);
    this.section = element(
      "section", { class: "card panel", "aria-labelledby": titled }, this.title,
      element("div", { class: "line" }, element("label", { class: "unseen", htmlFor: named }, "Decoder"), this.name,
        this.button, remove),
      this.words,
      element("details", {}, element("summary", {}, "Search settings"), sliders),
      this.text, this.waiting, this.fault, this.numbers, this.search,
    );
    this.#describe();
  }
}

const time = (milliseconds) => `${Math.round(milliseconds).toLocaleString("en")} ms`;
const plural = (count, noun) => `${count} ${noun}${count === 1 ? "" : "s"}`;
