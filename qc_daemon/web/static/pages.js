// Keys of the exam page: b boxes, j and k next and previous finding, p plays a
// cine, r review. Pages work without.
"use strict";

function findingLink(step) {
  const links = [...document.querySelectorAll(".findings a")];
  const here = links.findIndex((link) => link.getAttribute("aria-current"));
  return links[here + step];
}

const KEYS = {
  b: () => document.getElementById("boxes")?.click(),
  j: () => findingLink(1)?.click(),
  k: () => findingLink(-1)?.click(),
  p: () => document.getElementById("play")?.click(),
  r: () => document.querySelector("#review input[type=radio]")?.focus(),
};

document.addEventListener("keydown", (event) => {
  // A key that is typed into a field, or means something to the browser, is not ours.
  if (event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
  if (event.target.closest("input:not([type=checkbox], [type=radio], [type=range]), select, textarea")) return;
  const action = KEYS[event.key];
  if (action) {
    event.preventDefault();
    action();
  }
});
