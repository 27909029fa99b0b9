// Keeps the live board as it is: tiles come as HTML of the server's, by server-sent events.
"use strict";

const RETRY = 5000;

const board = document.getElementById("board");
let after = board.dataset.after;

function show(id, isShown) {
  document.getElementById(id).hidden = !isShown;
}

function elementOf(html) {
  const template = document.createElement("template");
  template.innerHTML = html;
  return template.content.firstElementChild;
}

function update(change) {
  for (const html of change.tiles) {
    const tile = elementOf(html);
    const before = document.getElementById(tile.id);
    // A tile that a reader has the focus in keeps it.
    const hasFocus = before?.contains(document.activeElement);
    if (before) before.replaceWith(tile);
    else board.append(tile);
    if (hasFocus) tile.querySelector("a")?.focus();
  }
  const shown = new Set(change.exams.map((exam) => `exam-${exam}`));
  for (const tile of [...board.children]) if (!shown.has(tile.id)) tile.remove();
  change.exams.forEach((exam, place) => {
    const tile = document.getElementById(`exam-${exam}`);
    if (tile && board.children[place] !== tile) board.insertBefore(tile, board.children[place]);
  });
  show("no-exam", change.exams.length === 0);
  show("unread", !change.is_current);
}

function listen() {
  const address = new URL(board.dataset.events, location.href);
  address.searchParams.set("after", after);
  const events = new EventSource(address);
  events.addEventListener("open", () => show("lost", false));
  events.addEventListener("board", (event) => {
    after = event.lastEventId;
    update(JSON.parse(event.data));
  });
  events.addEventListener("error", () => {
    show("lost", true);
    // The browser asks again by itself, but not after an answer that is no stream of events.
    if (events.readyState === EventSource.CLOSED) setTimeout(retry, RETRY);
  });
}

async function retry() {
  try {
    const answer = await fetch(location.href, { redirect: "manual" });
    // Not logged in any more: the page says so, or leads to the form.
    if (answer.type === "opaqueredirect" || answer.status === 401 || answer.status === 403) {
      location.reload();
      return;
    }
  } catch {
    // The service is away; below it is asked again.
  }
  listen();
}

listen();
