// The page: the prompt and the sampling that all decoders share, and a panel for each decoder.

import { models, Refusal, useKey } from "./client.js";
import { Panel } from "./panel.js";
import { read, SAMPLING, Sliders, written } from "./settings.js";

const MOST_PANELS = 6; // a browser opens no more connections to one server
const [form, keyForm, answers, prompt, as, status, fault, writeButton, addButton, linkButton] = [
  "ask", "key-form", "answers", "prompt", "as", "status", "fault", "write", "add", "link",
].map((id) => document.getElementById(id));
const sampling = new Sliders(document.getElementById("sampling"), SAMPLING);
let served = null;
let panels = [];
let last = null; // the link of what was asked last

const page = {
  /** What the form asks for; null where a number is missing or out of range, which the browser then shows. */
  ask() {
    if (!form.reportValidity()) return null;
    const chat = !as.hidden && form.elements.as.value === "chat";
    last = written(state());
    history.replaceState(null, "", last);
    return {
      route: chat ? "v1/chat/completions" : "v1/completions",
      prompt: prompt.value, as: chat ? "chat" : "text", sampling: sampling.values,
    };
  },
  say(text) {
    status.textContent = text;
  },
  changed() {
    const running = panels.some((panel) => panel.running);
    writeButton.textContent = running ? "Stop" : "Write";
    answers.setAttribute("aria-busy", running);
  },
  removed(panel) {
    panels = panels.filter((each) => each !== panel);
    addButton.disabled = false;
    addButton.focus();
    page.changed();
  },
};

function state() {
  const decoders = panels.map((panel) => panel.decoder);
  return { prompt: prompt.value, as: form.elements.as.value, sampling: sampling.values, decoders };
}

function add() {
  const panel = new Panel(served.data, served.trimtab.reward, page);
  panels.push(panel);
  answers.append(panel.section);
  addButton.disabled = panels.length >= MOST_PANELS;
  return panel;
}

/** Put what a link holds into the form, and write it; without a link, two decoders to begin with. */
async function open() {
  const asked = read(location.hash);
  for (const panel of panels) panel.stop();
  answers.replaceChildren();
  panels = [];
  const { temperature, top_p, top_k, max_tokens } = served.trimtab;
  sampling.values = { temperature, top_p, top_k, max_tokens, seed: Math.floor(Math.random() * 10000) };
  if (!asked) {
    const named = served.data.slice(1), cbs = named.find(({ trimtab }) => trimtab.chunk !== null);
    for (const card of new Set([served.data[0], cbs ?? named[0]])) if (card) await add().choose({ model: card.id });
    return;
  }
  prompt.value = asked.prompt;
  form.elements.as.value = as.hidden ? "text" : asked.as;
  sampling.values = asked.sampling;
  const chosen = asked.decoders.slice(0, MOST_PANELS).map((decoder) => [add(), decoder]);
  await Promise.all(chosen.map(([panel, decoder]) => panel.choose(decoder).then(
    () => panels.includes(panel) && panel.write(), (error) => panel.fail(error.message),
  )));
}

async function start() {
  const asking = !keyForm.hidden;
  fault.hidden = keyForm.hidden = true;
  try {
    served = await models();
  } catch (error) {
    if (!(error instanceof Refusal)) throw error;
    const locked = error.status === 401;
    fault.textContent = error.message;
    fault.hidden = locked && !asking; // nobody was asked for a key before
    keyForm.hidden = !locked;
    if (locked) document.getElementById("key").focus();
    return;
  }
  form.hidden = false;
  as.hidden = !served.trimtab.chat;
  document.getElementById("settings").open = matchMedia("(min-width: 60rem)").matches;
  prompt.focus();
  await open();
}

keyForm.addEventListener("submit", (event) => {
  event.preventDefault();
  useKey(document.getElementById("key").value.trim());
  start();
});
form.addEventListener("submit", (event) => {
  event.preventDefault();
  if (panels.some((panel) => panel.running)) return panels.forEach((panel) => panel.stop());
  page.say(`Writing with ${panels.length} decoders`);
  panels.forEach((panel) => panel.write());
});
form.addEventListener("invalid", (event) => (event.target.closest("details").open = true), true);
prompt.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) form.requestSubmit();
});
addButton.addEventListener("click", () => add().name.focus());
linkButton.addEventListener("click", async () => {
  last ??= written(state());
  history.replaceState(null, "", last);
  const copying = navigator.clipboard?.writeText(location.href).then(() => true, () => false);
  const copied = await copying; // a page that is not at a safe address has no clipboard
  page.say(copied ? "The link is copied." : "The link is in the browser's address bar.");
});
document.getElementById("skip").addEventListener("click", (event) => {
  event.preventDefault(); // the address keeps what it holds
  answers.focus();
});
addEventListener("hashchange", open);
start();
