import { get } from "./api.js";
import { at, make } from "./dom.js";
import { help } from "./keys.js";
import { tryOut } from "./try.js";
import { walk } from "./walk.js";

const views = { walk: at("to-walk"), try: at("to-try") };
const open = (name) => {
  scrollTo(0, 0);
  for (const [each, button] of Object.entries(views)) {
    at(each).hidden = each !== name;
    if (each === name) button.setAttribute("aria-current", "true");
    else button.removeAttribute("aria-current");
  }
};

at("skip").addEventListener("click", (event) => { // the token stays in the address
  event.preventDefault();
  at("main").focus();
});

try {
  const about = await get("/api/session");
  const title = [about.dataset, about.list].filter(Boolean).join(": ") || "Try an image";
  document.title = title;
  at("title").textContent = title;
  at("walk-h").textContent = about.list || "";
  for (const [key, what] of about.list ? help(about.classes.length) : []) {
    const row = make("tr"), head = make("th", undefined, { scope: "row" });
    head.append(make("kbd", key));
    row.append(head, make("td", what));
    at("keys").append(row);
  }
  at("keys").closest("table").hidden = !about.list;
  at("single").closest("p").hidden = !about.list;
  for (const [name, value] of [["Answers", about.method || about.silence], ["Classes", String(about.classes.length)], ["Decisions", about.out]]) {
    if (!value) continue;
    const pair = make("div");
    pair.append(make("dt", name), make("dd", value, { dir: "auto" }));
    at("facts").append(pair);
  }
  at("notes").append(...about.notes.map((note) => make("li", note, { dir: "auto" })));
  for (const button of Object.values(views)) button.hidden = !about.list;
  tryOut(about, () => open("try"));
  let walking = null;
  views.walk.addEventListener("click", () => { open("walk"); walking?.shown(); });
  views.try.addEventListener("click", () => open("try"));
  open(about.list ? "walk" : "try");
  if (about.list) walking = await walk(about);
} catch (fault) {
  at("trouble").hidden = false;
  at("trouble-line").textContent = `${fault.message[0].toUpperCase()}${fault.message.slice(1)}.`;
  at("again").addEventListener("click", () => location.reload());
}
