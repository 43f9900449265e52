"use strict";
// All text goes in by textContent; nothing is made from strings of HTML.
const make = (tag, text, attributes = {}) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
const plain = (text) => text.normalize("NFKD").toLowerCase();

// Data sets as tabs: one is shown, the one that the address names
const articles = [...document.querySelectorAll("article.dataset")];
let current = articles[0];
const show = () => {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const shown = (target && target.closest("article.dataset")) || current;
  const moved = shown !== current;
  current = shown;
  for (const each of articles) each.hidden = each !== shown;
  for (const link of document.querySelectorAll("[data-tab]"))
    link.hash === `#${shown.id}` ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
  if (moved && target !== shown) target.scrollIntoView();
  else if (target === shown) scrollTo(0, 0);
};
if (articles.length) {
  addEventListener("hashchange", show);
  show();
}
const links = new Map([...document.querySelectorAll(".side a")].map((link) => [link.hash.slice(1), link]));
const seen = new IntersectionObserver(
  (entries) => {
    for (const { isIntersecting, target } of entries) {
      const link = links.get(target.id);
      if (link && isIntersecting) {
        for (const other of link.closest("ul").querySelectorAll("a")) other.removeAttribute("aria-current");
        link.setAttribute("aria-current", "true");
      }
    }
  },
  { rootMargin: "-15% 0px -75% 0px" },
);
for (const section of document.querySelectorAll("section.section")) seen.observe(section);

// Tables: sorted by any column, searched, the rest of a long one on demand
const wanted = (row, at) => {
  const cell = row.cells[at];
  return cell.dataset.order === undefined ? cell.textContent : Number(cell.dataset.order);
};
const compare = (a, b) => {
  if (typeof a === "number" && typeof b === "number") return a - b;
  if (typeof a === "number") return -1;
  if (typeof b === "number") return 1;
  return a.localeCompare(b, undefined, { numeric: true });
};
for (const box of document.querySelectorAll(".table")) {
  const table = box.querySelector("table"), body = table.tBodies[0], input = box.querySelector("[data-filter]");
  let rows = [...body.rows], first = Number(box.dataset.first) || Infinity, more = null;
  const update = () => {
    const words = input ? plain(input.value).split(/\s+/).filter(Boolean) : [];
    const found = rows.filter((row) => words.every((word) => plain(row.textContent).includes(word)));
    const shown = new Set(found.slice(0, words.length ? Infinity : first));
    for (const row of rows) row.hidden = !shown.has(row);
    if (more) more.hidden = found.length <= shown.size;
  };
  if (rows.length > first) {
    more = make("button", `Show all ${rows.length}`, { type: "button", class: "more" });
    more.addEventListener("click", () => {
      const next = rows[first];
      first = Infinity;
      update();
      if (next) { next.tabIndex = -1; next.focus(); }
    });
    box.append(more);
  }
  if (input) input.addEventListener("input", update);
  if (table.hasAttribute("data-sortable"))
    for (const [at, head] of [...table.tHead.rows[0].cells].entries()) {
      const button = make("button", head.textContent, { type: "button" });
      head.replaceChildren(button);
      button.addEventListener("click", () => {
        const before = head.getAttribute("aria-sort");
        const number = head.classList.contains("n");
        const to = before ? (before === "ascending" ? "descending" : "ascending") : number ? "descending" : "ascending";
        for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", to);
        const sign = to === "ascending" ? 1 : -1;
        rows = rows.map((row) => [wanted(row, at), row])
          .sort(([a], [b]) => (typeof a === typeof b ? sign : 1) * compare(a, b)).map(([, row]) => row);
        body.append(...rows);
        update();
      });
    }
  update();
}

// Cards
for (const box of document.querySelectorAll(".cards-of")) {
  const input = box.querySelector(":scope > .filter [data-filter]"), cards = [...box.querySelectorAll(".cards > li")];
  if (!input) continue;
  const texts = cards.map((card) => plain(card.querySelector("summary, .face").textContent));
  input.addEventListener("input", () => {
    const words = plain(input.value).split(/\s+/).filter(Boolean);
    cards.forEach((card, at) => { card.hidden = !words.every((word) => texts[at].includes(word)); });
  });
}

// Sentences: [class, source, text, reason of the drop, own cosine, margin, nearest other class]
const STEP = 40;
for (const box of document.querySelectorAll(".browser")) {
  const { classes, sources, rows } = JSON.parse(box.querySelector("script").textContent);
  const texts = rows.map((row) => plain(`${row[2]} ${classes[row[0]]}`));
  const controls = make("div", undefined, { class: "controls" });
  const labelled = (name, control) => {
    const label = make("label", `${name} `);
    label.append(control);
    controls.append(label);
    return control;
  };
  const choice = (name, options) => {
    const select = make("select");
    for (const [value, text] of options) select.append(make("option", text, { value }));
    return labelled(name, select);
  };
  const search = labelled("Search", make("input", undefined, { type: "search", autocomplete: "off" }));
  const of = choice("Class", [["", "all"], ...classes.map((name, at) => [at, name])]);
  const from = choice("Source", [["", "all"], ...sources.map((name, at) => [at, name])]);
  const kept = choice("State", [["", "all"], ["kept", "kept"], ["dropped", "dropped"]]);
  const order = choice("Order", [["", "as written"], ["best", "largest margin"], ["worst", "smallest margin"]]);
  order.parentElement.hidden = rows.every((row) => row[5] === null);
  const count = make("p", "", { class: "count", role: "status" });
  const list = make("ul", undefined, { class: "sentences" });
  const more = make("button", "Show more", { type: "button", class: "more" });
  let found = [], shown = 0;
  const item = ([label, source, text, reason, own, margin, other]) => {
    const made = make("li", undefined, { class: reason ? "sentence dropped" : "sentence" });
    made.append(make("p", text, { class: "text", dir: "auto" }));
    const about = make("p", `${classes[label]} · ${sources[source]}`, { class: "of" });
    if (reason) about.append(" · ", make("span", `dropped: ${reason.replaceAll("_", " ")}`, { class: "why" }));
    made.append(about);
    if (own !== null) {
      const worth = make("p", "own ", { class: "worth" });
      worth.append(make("b", own.toFixed(2)), " · margin ", make("b", (margin < 0 ? "−" : "+") + Math.abs(margin).toFixed(2)));
      worth.append(make("br"), margin < 0 ? `nearer to ${classes[other]}` : `then ${classes[other]}`);
      made.append(worth);
    }
    return made;
  };
  const add = () => {
    list.append(...found.slice(shown, shown + STEP).map((at) => item(rows[at])));
    shown = Math.min(found.length, shown + STEP);
    more.hidden = shown >= found.length;
  };
  const update = () => {
    const words = plain(search.value).split(/\s+/).filter(Boolean);
    found = [...rows.keys()].filter((at) => {
      const [label, source, , reason] = rows[at];
      return (of.value === "" || label === Number(of.value)) && (from.value === "" || source === Number(from.value)) &&
        (kept.value === "" || (kept.value === "kept") === !reason) && words.every((word) => texts[at].includes(word));
    });
    if (order.value) {
      const sign = order.value === "best" ? -1 : 1;
      found = found.filter((at) => rows[at][5] !== null).sort((a, b) => sign * (rows[a][5] - rows[b][5]));
    }
    count.textContent = `${found.length} of ${rows.length} sentences`;
    list.replaceChildren();
    shown = 0;
    add();
  };
  more.addEventListener("click", () => {
    const next = shown;
    add();
    const made = list.children[next];
    if (made) { made.tabIndex = -1; made.focus(); }
  });
  for (const control of [search, of, from, kept, order]) control.addEventListener("input", update);
  box.append(controls, count, list, more);
  update();
}

// What scrolls sideways is reached by the keyboard; what does not is no stop on the way
const scrolling = new ResizeObserver((entries) => {
  for (const { target } of entries)
    target.scrollWidth > target.clientWidth + 1 ? target.setAttribute("tabindex", "0") : target.removeAttribute("tabindex");
});
for (const box of document.querySelectorAll(".scroll")) scrolling.observe(box);

// What the pointer rests on in a chart; the same numbers stand in the table beside it
const tip = document.getElementById("tip");
document.addEventListener("pointermove", (event) => {
  const mark = event.target.closest ? event.target.closest("[data-tip]") : null;
  tip.hidden = !mark;
  if (!mark) return;
  tip.textContent = mark.dataset.tip;
  tip.style.left = `${Math.min(event.clientX + 14, innerWidth - tip.offsetWidth - 8)}px`;
  tip.style.top = `${Math.max(8, event.clientY - tip.offsetHeight - 10)}px`;
});
