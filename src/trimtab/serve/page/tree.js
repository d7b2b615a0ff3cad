// The tree of a search, which grows by the steps of a stream: every candidate, its value, and what became of it.

import { element, newId, shown } from "./elements.js";

const ENDS = { eos: "ended", length: "cut at its length", stop: "stopped" };

class Node {
  constructor(parent, candidate) {
    this.parent = parent;
    this.text = candidate?.text ?? "";
    this.children = [];
    this.chosen = false; // a reader has opened or closed it
    if (!parent) return;
    const row = newId(), added = this.text.slice(parent.text.length).replaceAll("\n", "↵");
    this.worth = element("span", { class: "worth" }, shown(candidate.value));
    this.fate = element("span", { class: "fate" });
    const words = element("span", { class: "added", dir: "auto" }, added || "(no text)");
    this.row = element("span", { class: "row", id: row }, this.worth, " ", words, " ", this.fate);
    this.item = element("li", { role: "treeitem", tabIndex: -1, "aria-labelledby": row }, this.row);
    this.item.node = this;
  }

  /** Say that the step kept it, or why it was dropped. */
  judge(candidate) {
    const end = candidate.finish ? `, ${ENDS[candidate.finish] ?? candidate.finish}` : "";
    const kept = candidate.kept !== null;
    this.fate.textContent = kept ? `kept${end}` : `dropped: ${candidate.dropped}`;
    this.item.classList.toggle("dropped", !kept);
  }

  append(child) {
    if (!this.group) {
      this.group = element("ul", { role: "group" });
      this.item.append(this.group);
      this.open(true);
    }
    this.children.push(child);
    this.group.append(child.item);
  }

  get expanded() {
    return this.item.getAttribute("aria-expanded") === "true";
  }

  open(expanded) {
    if (!this.group) return;
    this.item.setAttribute("aria-expanded", expanded);
    this.group.hidden = !expanded;
  }
}

/** A tree in the empty list `place`. Branches that the search has left fold up; those that a reader touched stay. */
export class SearchTree {
  constructor(place) {
    this.place = place;
    this.count = 0;
    this.steps = 0;
    this.root = new Node(null);
    this.root.append = (child) => place.append(child.item);
    this.beams = new Map([[0, this.root]]);
    this.open = new Set(); // branches to fold once no kept candidate is below them
    place.addEventListener("click", (event) => this.#clicked(event));
    place.addEventListener("keydown", (event) => this.#pressed(event));
  }

  /** The text of the best beam so far. */
  get leader() {
    return this.best?.text ?? "";
  }

  /** Add a step; candidates come best first. */
  add({ number, candidates }) {
    const beams = new Map(), grown = new Set();
    this.last = [];
    for (const candidate of candidates) {
      const parent = this.beams.get(candidate.parent);
      const node = candidate.held ? parent : new Node(parent, candidate);
      if (!candidate.held) {
        parent.append(node);
        if (parent.parent) grown.add(parent);
        this.count += 1;
      }
      node.judge(candidate);
      if (candidate.kept !== null) {
        beams.set(candidate.kept, node);
        this.last.push(node);
      }
    }
    this.beams = beams;
    this.best = this.last[0];
    this.steps = number + 1;
    this.#unfold(this.last, grown);
    const first = this.place.querySelector("[role=treeitem]");
    if (first && !this.place.querySelector("[tabindex='0']")) first.tabIndex = 0;
  }

  /** Mark the way to the returned text. */
  finish(text) {
    const leaf = this.last?.find((node) => node.text === text);
    if (!leaf) return;
    leaf.fate.textContent += ", returned";
    this.#unfold([leaf]);
    for (let node = leaf; node.parent; node = node.parent) node.item.classList.add("path");
  }

  /** Fold up what does not lead to `leaves`; `grown` stay open until the next step. */
  #unfold(leaves, grown = new Set()) {
    for (const leaf of leaves) for (let node = leaf.parent; node.parent; node = node.parent) grown.add(node);
    for (const node of this.open) if (!grown.has(node) && !node.chosen) node.open(false);
    for (const node of grown) if (!node.chosen) node.open(true);
    this.open = grown;
  }

  #clicked(event) {
    const node = event.target.closest(".row")?.parentElement.node;
    if (!node) return;
    this.#turn(node, !node.expanded);
    this.#focus(node.item);
  }

  #pressed(event) {
    const item = event.target.closest("[role=treeitem]"), node = item.node;
    const seen = [...this.place.querySelectorAll("[role=treeitem]")].filter((each) => !each.closest("ul[hidden]"));
    const at = seen.indexOf(item);
    const moves = {
      ArrowDown: () => this.#focus(seen[at + 1]),
      ArrowUp: () => this.#focus(seen[at - 1]),
      Home: () => this.#focus(seen[0]),
      End: () => this.#focus(seen.at(-1)),
      ArrowRight: () => (node.expanded ? this.#focus(node.children[0].item) : this.#turn(node, true)),
      ArrowLeft: () => (node.expanded ? this.#turn(node, false) : this.#focus(node.parent.item)),
      Enter: () => this.#turn(node, !node.expanded),
      " ": () => this.#turn(node, !node.expanded),
    };
    if (!moves[event.key] || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    moves[event.key]();
  }

  #turn(node, expanded) {
    node.chosen = true;
    node.open(expanded);
  }

  #focus(item) {
    if (!item) return;
    for (const each of this.place.querySelectorAll("[tabindex='0']")) each.tabIndex = -1;
    item.tabIndex = 0;
    item.focus();
  }
}
