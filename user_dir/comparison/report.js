"use strict";

// --- tables: a click on a column's head sorts by it, another turns it round ---

function compare(one, other) {
  const numbers = [parseFloat(one), parseFloat(other)];
  if (numbers.some(Number.isNaN)) return one.localeCompare(other, "en", { numeric: true });
  return numbers[0] - numbers[1];
}

function sortBy(head) {
  const table = head.closest("table");
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const each of table.tHead.rows[0].cells) each.setAttribute("aria-sort", "none");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const text = (row) => row.cells[head.cellIndex].textContent.trim();
  const empty = (row) => ["", "nan"].includes(text(row));
  const rows = [...table.tBodies[0].rows];
  rows.sort((a, b) => {
    if (empty(a) || empty(b)) return empty(a) - empty(b); // last, either way round
    return (down ? -1 : 1) * compare(text(a), text(b));
  });
  table.tBodies[0].append(...rows);
}

for (const button of document.querySelectorAll("thead button")) {
  button.addEventListener("click", () => sortBy(button.closest("th")));
}

// --- pictures: one stop for the Tab key each, arrow keys from point to point ---

const tip = document.getElementById("tip");
let told = null; // the point that the tip is of

function show(point) {
  told = point;
  tip.textContent = point.getAttribute("aria-label");
  tip.hidden = false;
  const at = point.getBoundingClientRect();
  const size = tip.getBoundingClientRect();
  const left = Math.min(at.left, document.documentElement.clientWidth - size.width - 8);
  const above = at.top - size.height - 8;
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${above < 8 ? at.bottom + 8 : above}px`;
}

function hide() {
  told = null;
  tip.hidden = true;
}

function step(key, place, count) {
  return {
    ArrowRight: Math.min(place + 1, count - 1),
    ArrowDown: Math.min(place + 1, count - 1),
    ArrowLeft: Math.max(place - 1, 0),
    ArrowUp: Math.max(place - 1, 0),
    Home: 0,
    End: count - 1,
  }[key];
}

function enter(picture) {
  const points = [...picture.querySelectorAll(".point")];
  points.forEach((point, place) => {
    point.querySelector("title").remove(); // the browser's own hint, beside ours
    point.addEventListener("mouseenter", () => show(point));
    point.addEventListener("mouseleave", hide);
    point.addEventListener("blur", hide);
    point.addEventListener("focus", () => {
      points.forEach((each) => each.setAttribute("tabindex", each === point ? "0" : "-1"));
      show(point);
    });
    point.addEventListener("keydown", (event) => {
      const next = step(event.key, place, points.length);
      if (next === undefined) return;
      event.preventDefault();
      points[next].focus();
    });
  });
}

document.querySelectorAll("figure svg").forEach(enter);
document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
// Focus scrolls a point into view; what is said of it goes along.
document.addEventListener("scroll", () => told && show(told), { capture: true, passive: true });
