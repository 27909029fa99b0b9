// The cine of the exam page: its judged frames under a slider, and played as fast as they were taken.
"use strict";

const UNKNOWN_TIME = 100;

const cine = document.getElementById("cine");
const slider = document.getElementById("frame");
const play = document.getElementById("play");
const note = document.getElementById("frame-note");
const points = [...cine.querySelectorAll(".scores a")];
const pictures = [...document.querySelectorAll(".picture figure img")];
let timer = null;
let dropped = 0;
let header = null;
let isLoaded = false;

function addressOf(picture, place) {
  const name = picture.classList.contains("boxes") ? "boxes" : "frame";
  return `/findings/${points[place].dataset.finding}/${name}.png`;
}

function show(place) {
  slider.value = place;
  for (const picture of pictures) picture.src = addressOf(picture, place);
  points.forEach((point, each) => point.classList.toggle("shown", each === place));
  const words = [points[place].dataset.note];
  if (dropped) words.push(cine.dataset.dropped.replace("{count}", dropped));
  if (header === UNKNOWN_TIME) words.push(cine.dataset.unknown);
  note.textContent = words.join(" · ");
}

// Every frame is fetched before it is played: one that is late would be shown at a wrong time.
async function load() {
  for (const [place] of points.entries()) {
    note.textContent = cine.dataset.loading.replace("{count}", `${place + 1}/${points.length}`);
    await Promise.all(pictures.map((picture) => {
      const image = new Image();
      image.src = addressOf(picture, place);
      return image.decode().catch(() => {});
    }));
  }
  const answer = await fetch(`/findings/${cine.dataset.finding}/frame-time`);
  header = (answer.ok && (await answer.json()).milliseconds) || UNKNOWN_TIME;
  isLoaded = true;
}

function duration(place) {
  const next = points[place + 1] ?? points[place];
  const before = points[place + 1] ? points[place] : points[place - 1];
  return header * (next.dataset.frame - before.dataset.frame);
}

function stop() {
  clearTimeout(timer);
  timer = null;
  play.setAttribute("aria-pressed", "false");
}

function step(place, due) {
  let next = (place + 1) % points.length;
  due += duration(place);
  // Frames that are over already are left out, so that the cine keeps its pace.
  while (performance.now() > due + duration(next)) {
    due += duration(next);
    next = (next + 1) % points.length;
    dropped += 1;
  }
  timer = setTimeout(() => {
    show(next);
    step(next, due);
  }, Math.max(0, due - performance.now()));
}

play.addEventListener("click", async () => {
  if (timer !== null) {
    stop();
    return;
  }
  play.setAttribute("aria-pressed", "true");
  if (!isLoaded) await load();
  dropped = 0;
  const place = Number(slider.value);
  show(place);
  step(place, performance.now());
});

slider.addEventListener("input", () => {
  stop();
  show(Number(slider.value));
});

cine.querySelector(".cine-controls").hidden = false;
const here = points.findIndex((point) => point.getAttribute("aria-current"));
slider.value = Math.max(0, here);
note.textContent = points[Math.max(0, here)].dataset.note;
