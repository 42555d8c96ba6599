"use strict";
// Uses the page as a reader does, and leaves what was seen in the attribute data-seen of the document.

const seen = { violations: [], errors: [] };
const get = (selector) => document.querySelector(selector);
const last = (selector) => [...document.querySelectorAll(`article:last-of-type ${selector}`)];
const textOf = (node) => node?.textContent ?? null;

addEventListener("error", (event) => seen.errors.push(event.message));
addEventListener("unhandledrejection", (event) => seen.errors.push(String(event.reason)));
document.addEventListener("securitypolicyviolation", (event) => seen.violations.push(event.blockedURI + event.violatedDirective));

const until = (holds) => new Promise((resolve) => {
  const look = () => {
    if (!holds()) return;
    observer.disconnect();
    resolve();
  };
  const observer = new MutationObserver(look);
  observer.observe(document, { subtree: true, childList: true, attributes: true, characterData: true });
  look();
});
const press = (node, key, more) => node.dispatchEvent(new KeyboardEvent("keydown", { key, bubbles: true, cancelable: true, ...more }));
const idle = () => get("#log").getAttribute("aria-busy") === "false";

function type(question) {
  get("#question").value = question;
  press(get("#question"), "Enter");
}

async function ask(question) {
  type(question);
  await until(idle);
  seen[question] = { answer: textOf(last(".answer")[0]), error: textOf(last(".error")[0]), status: textOf(get("#status")) };
}

function textBefore(node) {
  if (!node) return null;
  const before = new Range();
  before.setStart(last(".answer")[0], 0);
  before.setEndBefore(node);
  return before.toString();
}

async function read() {
  await until(() => textOf(get("#documents")));
  seen.documents = textOf(get("#documents span"));
  press(get("#question"), "Enter", { shiftKey: true });
  seen.sentByShiftEnter = !idle();
  await ask("cited");
  const [citation, ...others] = last(".cite");
  Object.assign(seen, { before: textBefore(citation), bold: last(".answer b").length, otherCitations: others.length, label: citation.ariaLabel });
  citation.focus();
  seen.tip = get("#tip").hidden ? "" : textOf(get("#tip"));
  citation.click();
  await until(() => get("mark"));
  seen.mark = textOf(get("mark"));
  get("#source-close").click();
  for (const question of ["restarted", "failed"]) await ask(question);
  await ask("retold");
  await visitPanel(last(".cite"));
  for (const question of ["code", "uncited"]) {
    await ask(question);
    Object.assign(seen[question], { note: textOf(last(".note")[0]), before: textBefore(last(".cite")[0]) });
  }
  await ask("nearest");
  seen.nearestPassages = last(".nearest button").map(textOf);
  await stopAnswer();
  await uploadFile();
}

async function visitPanel(citations) {
  seen.retoldCitations = citations.length;
  citations.forEach((citation) => citation.click());
  seen.panelHasFocus = get("#source").contains(document.activeElement);
  press(document.activeElement, "Escape");
  await new Promise((resolve) => get("#source").addEventListener("close", () => setTimeout(resolve)));
  seen.focusReturns = document.activeElement === citations.at(-1);
}

async function stopAnswer() {
  type("stopped");
  await until(() => textOf(last(".answer")[0]) === "Once upon");
  seen.busyWhileStreaming = !idle();
  get("#stop").click();
  await until(idle);
  seen.stopNote = textOf(last(".note")[0]);
}

async function uploadFile() {
  const files = new DataTransfer();
  files.items.add(new File(["words"], "broken.pdf"));
  get("#files").files = files.files;
  get("#files").dispatchEvent(new Event("change"));
  await until(() => get("#uploads .error"));
  seen.upload = textOf(get("#uploads .error"));
}

async function unlock() {
  await until(() => !get("#key-form").hidden);
  seen.keyNote = textOf(get("#key-note"));
  get("#key").value = "a-key";
  get("#key-form button").click();
  await until(() => textOf(get("#documents")));
  seen.documents = textOf(get("#documents span"));
  seen.keyFormHidden = get("#key-form").hidden;
}

async function drive() {
  await until(() => get("#ready").className);
  seen.ready = textOf(get("#ready"));
  await until(() => !get("#key-form").hidden || textOf(get("#documents")));
  await (get("#key-form").hidden ? read() : unlock());
}

drive().catch((error) => seen.errors.push(String(error))).then(() => { document.documentElement.dataset.seen = JSON.stringify(seen); });
