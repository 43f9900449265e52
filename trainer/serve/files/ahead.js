// Type-ahead over all classes: a combobox with a list, for the keyboard and for screen readers.
import { at, make, plain } from "./dom.js";

const SHOWN = 12;

export const typeAhead = (names, pick) => {
  const input = at("typed"), list = at("options");
  const folded = names.map(plain);
  let found = [], active = 0;

  const mark = () => {
    [...list.querySelectorAll("[role=option]")].forEach((option, place) => {
      option.setAttribute("aria-selected", String(place === active));
      if (place === active) {
        input.setAttribute("aria-activedescendant", option.id);
        option.scrollIntoView({ block: "nearest" });
      }
    });
  };
  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
    input.removeAttribute("aria-activedescendant");
  };
  const update = () => {
    const words = plain(input.value).split(/\s+/).filter(Boolean);
    const whole = plain(input.value.trim());
    const begins = (name) => words.every((word) => name.split(/[^\p{L}\p{N}]+/u).some((part) => part.startsWith(word)));
    const ranks = [(name) => name === whole, (name) => name.startsWith(whole), (name) => ` ${name}`.includes(` ${whole}`), begins];
    const rank = (place) => [...ranks, () => true].findIndex((fits) => fits(folded[place]));
    found = words.length
      ? [...folded.keys()].filter((place) => words.every((word) => folded[place].includes(word))).sort((a, b) => rank(a) - rank(b) || a - b)
      : [];
    active = 0;
    list.replaceChildren(...found.slice(0, SHOWN).map((place, row) => {
      const option = make("li", names[place], { role: "option", id: `option-${row}`, dir: "auto", "aria-selected": "false" });
      option.addEventListener("pointerdown", (event) => event.preventDefault()); // the field keeps the focus
      option.addEventListener("click", () => choose(row));
      return option;
    }));
    if (words.length && found.length !== Math.min(found.length, SHOWN)) list.append(make("li", `and ${found.length - SHOWN} more: type on`, { role: "presentation" }));
    if (words.length && !found.length) list.append(make("li", "no such class", { role: "presentation" }));
    if (!words.length) return close();
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    mark();
  };
  const leave = () => {
    input.value = "";
    close();
  };
  const choose = (row) => {
    const place = found[row];
    if (place === undefined) return;
    leave();
    pick(place);
  };

  input.addEventListener("input", update);
  input.addEventListener("blur", close);
  input.addEventListener("focus", update);
  input.addEventListener("keydown", (event) => {
    if (event.isComposing) return;
    const shown = Math.min(found.length, SHOWN);
    if (event.key === "Enter" && !event.repeat) choose(active);
    else if (event.key === "Escape") { leave(); (at("primary").hidden ? at("main") : at("primary")).focus(); }
    else if (event.key === "ArrowDown" && shown) active = (active + 1) % shown;
    else if (event.key === "ArrowUp" && shown) active = (active + shown - 1) % shown;
    else return;
    event.preventDefault();
    event.stopPropagation();
    mark();
  });
  return {
    start: (letter) => { input.value = letter; input.focus(); update(); },
  };
};
