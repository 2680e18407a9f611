"use strict";

// Tables sorted by a click on a column's head: the worst first, then the other way round. What was not computed comes last.
for (const table of document.querySelectorAll(".sortable")) {
  const heads = [...table.tHead.querySelectorAll("th[data-sort]")];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const before = head.getAttribute("aria-sort");
      const direction = before === null ? head.dataset.sort : before === "ascending" ? "descending" : "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction);
      const sign = direction === "ascending" ? 1 : -1;
      const value = (row) => row.cells[column].dataset.value;
      const number = (text) => Number(text.replace("inf", "Infinity"));
      const compare = (a, b) => (column === 0 ? a.localeCompare(b, "en", { numeric: true }) : number(a) < number(b) ? -1 : number(a) > number(b) ? 1 : 0);
      const rows = [...table.tBodies[0].rows];
      rows.sort((a, b) => (value(a) === "") - (value(b) === "") || sign * compare(value(a), value(b)));
      table.tBodies[0].append(...rows);
    });
  });
}

// A picture enlarged by a click; the arrow keys change to the others of its target, in the same place.
const dialog = document.querySelector("dialog");
let pictures = [];
let current = 0;

function show(index) {
  current = (index + pictures.length) % pictures.length;
  const picture = pictures[current];
  const [shown, text] = [dialog.querySelector("img"), dialog.querySelector("p")];
  const squares = picture.classList.contains("squares");
  const room = Math.min((innerWidth * 0.94 - 24) / picture.naturalWidth, (innerHeight * 0.94 - 90) / picture.naturalHeight);
  const scale = squares && room >= 1 ? Math.floor(room) : Math.min(room, 4);
  shown.src = picture.src;
  shown.alt = picture.alt;
  shown.className = picture.className.replace("zoomable", "");
  shown.width = Math.round(picture.naturalWidth * scale);
  shown.height = Math.round(picture.naturalHeight * scale);
  text.textContent = `${picture.alt}${pictures.length > 1 ? ` (${current + 1} of ${pictures.length}, ← and → for the others)` : ""}`;
}

for (const group of document.querySelectorAll("[data-pictures]")) {
  for (const picture of group.querySelectorAll("img")) {
    picture.classList.add("zoomable");
    picture.tabIndex = 0;
    const open = () => {
      pictures = [...group.querySelectorAll("img")];
      show(pictures.indexOf(picture));
      dialog.showModal();
    };
    picture.addEventListener("click", open);
    picture.addEventListener("keydown", (event) => event.key === "Enter" && open());
  }
}
dialog.addEventListener("click", () => dialog.close());
dialog.addEventListener("keydown", (event) => {
  if (event.key === "ArrowLeft" || event.key === "ArrowRight") {
    event.preventDefault();
    show(current + (event.key === "ArrowRight" ? 1 : -1));
  }
});

// Folded lists are printed, too.
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((details) => (details.open = true)));
