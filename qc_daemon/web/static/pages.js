// Keys of the exam page: b boxes, j and k next and previous finding, p plays a
// cine, r review. Pages work without.
"use strict";

// What goes on to the side can be moved by arrow keys, so that the focus has to be able to be there.
function makeScrollable() {
  for (const part of document.querySelectorAll(".wide, .report-chart")) {
    part.toggleAttribute("tabindex", part.scrollWidth > part.clientWidth);
    if (part.hasAttribute("tabindex")) part.tabIndex = 0;
  }
}
makeScrollable();
addEventListener("resize", makeScrollable);
document.addEventListener("toggle", makeScrollable, true);
document.addEventListener("htmx:after:swap", makeScrollable);

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
