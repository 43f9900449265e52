// The list: one image after the other, a decision each.
import { typeAhead } from "./ahead.js";
import { blob, get } from "./api.js";
import { answers, at, make, percent, plain, tell } from "./dom.js";
import { fewEnough, keyOf, placeOf, pressed } from "./keys.js";
import { isWaiting, send, silent, waiting } from "./queue.js";

const AHEAD = 2; // images that are fetched before they are asked for
const PICTURES = 24; // that are kept
const ROWS = 60; // of the list that are shown at once
const EVERY = 2000; // milliseconds between two looks at what other windows decided

export const walk = async (about) => {
  const names = about.classes, few = fewEnough(names.length);
  const items = [];
  while (true) {
    const part = await get(`/api/items?start=${items.length}`);
    items.push(...part.items);
    if (items.length >= part.all || !part.items.length) break;
  }
  const listed = about.listed;
  const mine = []; // steps of this window, for undo
  let settled = 0; // answers to decisions so far
  let shown = -1, step = about.step, likely = [];

  // What is fetched for an image
  const pictures = new Map(), said = new Map();
  const pictureOf = (place) => {
    const kept = pictures.get(place) || blob(`/api/items/${place}/picture`).then((found) => URL.createObjectURL(found));
    pictures.delete(place);
    pictures.set(place, kept);
    kept.catch(() => pictures.delete(place));
    for (const [old, address] of pictures) {
      if (pictures.size <= PICTURES) break;
      pictures.delete(old);
      address.then((url) => URL.revokeObjectURL(url), () => {});
    }
    return kept;
  };
  const answerOf = (place) => {
    if (!about.method) return Promise.resolve([]);
    if (!said.has(place)) {
      const asked = get(`/api/items/${place}/answer`).then(({ classes }) => classes);
      asked.catch(() => said.delete(place));
      said.set(place, asked);
    }
    return said.get(place);
  };

  // Words
  const nameOf = (label) => (label === null ? "" : names[label]);
  const wordOf = (item) => {
    if (!item.action) return "";
    if (item.action === "label") return item.label === null ? nameOf(item.chosen) : `${nameOf(item.label)} → ${nameOf(item.chosen)}`;
    return item.action === "confirm" ? `kept: ${nameOf(item.label)}` : "left out";
  };
  const open = (place) => !items[place].action;
  const listedPlaces = [...Array(listed).keys()];
  const count = () => listedPlaces.filter((place) => !open(place)).length;
  const suggestedOf = (item) => item.findings.find((finding) => finding.suggested !== null);
  const otherOf = (item) => item.findings.find((finding) => finding.other !== null)?.other ?? null;
  const twin = (item) => item.findings.some((finding) => finding.other !== null && finding.kind !== "wrong-label");
  const titled = (kind) => kind[0].toUpperCase() + kind.slice(1).replaceAll("-", " ");
  const speak = (place) => {
    const item = items[place];
    const why = item.findings.map((finding) => [finding.kind.replaceAll("-", " "), finding.detail].filter(Boolean).join(": ")).join(". ");
    const has = item.label === null ? "" : `Its class is ${nameOf(item.label)}. `;
    return `Image ${place < listed ? `${place + 1} of ${listed}` : "that is evidence"}. ${has}${why}${item.action ? `. Decided: ${wordOf(item)}` : ""}`;
  };

  // What is shown
  const figure = (place, caption) => {
    const made = make("figure");
    const image = make("img", undefined, { alt: `Image ${items[place].name}`, decoding: "async" });
    const text = make("figcaption", caption, { dir: "auto" });
    made.append(image, text);
    pictureOf(place).then((url) => { image.src = url; }, (fault) => {
      image.replaceWith(make("p", fault.message, { class: "stand-in" }));
    });
    return made;
  };
  const caption = (item) => [item.name, item.split, nameOf(item.label)].filter(Boolean).join(" · ");
  const drawPictures = () => {
    const item = items[shown], other = otherOf(item);
    at("pictures").replaceChildren(figure(shown, caption(item)));
    if (other === null) return;
    at("pictures").append(figure(other, `${twin(item) ? "The other" : "Like it"}: ${caption(items[other])}`));
  };
  const drawFindings = () => {
    at("findings").replaceChildren(...items[shown].findings.filter(({ kind, detail, suggested }) => kind || detail || suggested !== null).map(({ kind, detail, suggested, probability }) => {
      const line = make("li", undefined, { dir: "auto" });
      if (kind) line.append(make("b", titled(kind)));
      if (suggested !== null) line.append(kind ? ": more like " : "Suggested: ", make("strong", nameOf(suggested)), probability === null ? "" : ` (${percent(probability)})`);
      if (detail) line.append(make("span", detail, { class: "of" }));
      return line;
    }));
  };
  const target = () => { // what Enter does
    const item = items[shown];
    if (item.action) return nextOpen() === null ? null : { action: null, line: "Next undecided" }; // nothing is decided twice by a rhythm
    if (item.label !== null) return { action: "confirm", label: null, line: `Keep: ${nameOf(item.label)}` };
    const suggested = suggestedOf(item)?.suggested ?? likely.find((one) => one.class !== null)?.class ?? null;
    const share = likely.find((one) => one.class === suggested)?.probability;
    return suggested === null ? null : { action: "label", label: suggested, line: `Take: ${nameOf(suggested)}${share === undefined ? "" : ` (${percent(share)})`}` };
  };
  const drawActs = () => {
    const item = items[shown], wish = target(), primary = at("primary");
    primary.hidden = !wish;
    if (wish) primary.replaceChildren(make("kbd", "Enter"), ` ${wish.line}`);
    at("exclude-other").hidden = !twin(item);
    at("stands").hidden = !item.action;
    at("stands").textContent = item.action ? `Decided: ${wordOf(item)}` : "";
    at("previous").disabled = !shown;
    at("next").disabled = shown >= listed - 1;
  };
  const drawChoices = () => {
    const item = items[shown], suggested = suggestedOf(item)?.suggested ?? null;
    const share = new Map(likely.map((one) => [one.class, one.probability]));
    const order = few ? [...names.keys()] : [...new Set([item.label, suggested, ...likely.map((one) => one.class)])].filter((label) => label !== null).slice(0, 9);
    const focused = document.activeElement?.dataset?.label;
    at("choices").replaceChildren(...order.map((label, place) => {
      const marks = [label === item.label && "its class now", label === suggested && "suggested"].filter(Boolean).join(", ");
      const pressedNow = item.action === "label" ? item.chosen === label : item.action === "confirm" && item.label === label;
      const button = make("button", undefined, { type: "button", class: "choice", "aria-pressed": String(pressedNow), "data-label": label });
      const key = few ? keyOf(place) : String(place + 1);
      button.setAttribute("aria-keyshortcuts", key.toUpperCase());
      button.append(make("kbd", key.toUpperCase(), { "aria-hidden": "true" }), make("span", names[label], { class: "name", dir: "auto" }));
      if (share.has(label)) {
        button.append(make("span", percent(share.get(label)), { class: "share-of" }));
        button.style.setProperty("--share", share.get(label));
      }
      if (marks) button.append(make("span", marks, { class: "mark" }));
      button.addEventListener("click", () => choose(label));
      return button;
    }));
    if (focused !== undefined) at("choices").querySelector(`[data-label="${focused}"]`)?.focus();
    at("choices-h").hidden = !order.length;
  };
  const drawWhere = () => {
    const done = count();
    at("place").textContent = shown < listed ? `Image ${shown + 1} of ${listed}` : "Evidence, not in the list itself";
    at("progress").max = listed;
    at("progress").value = done;
    at("decided").textContent = `${done} decided`;
    at("finished").hidden = done < listed;
    at("finished").textContent = `All ${listed} are decided. Take them over with: ${about.take}`;
  };
  const drawAnswer = async () => {
    const place = shown;
    at("answer-note").hidden = true;
    at("sentences").replaceChildren(make("p", about.method ? "…" : about.silence, { class: "about" }));
    let found = [];
    try {
      found = await answerOf(place);
    } catch (fault) {
      if (place === shown) at("sentences").replaceChildren(make("p", fault.message, { class: "about" }));
      return;
    }
    if (place !== shown || !about.method) return;
    likely = found;
    drawChoices();
    drawActs();
    if ([document.body, at("main")].includes(document.activeElement)) focusPrimary();
    const mine = items[place].split === "train" && about.learned;
    at("answer-note").hidden = !mine;
    at("answer-note").textContent = mine ? "The shares are of a classifier that learned from training images, perhaps from this one with its class as it is." : "";
    const boxes = answers(found);
    at("sentences").replaceChildren(...boxes);
  };
  const focusPrimary = () => {
    if (at("walk").hidden) return;
    (at("primary").hidden ? at("main") : at("primary")).focus({ preventScroll: true });
  };
  const show = (place, before = "") => {
    shown = place;
    likely = [];
    drawWhere();
    drawFindings();
    drawActs();
    drawChoices();
    drawPictures();
    drawAnswer();
    drawRows();
    focusPrimary();
    tell(`${before}${speak(place)}`);
    for (let next = place + 1; next <= Math.min(place + AHEAD, listed - 1); next += 1) {
      pictureOf(next).catch(() => {});
      answerOf(next).catch(() => {});
    }
  };
  const redraw = () => {
    drawWhere();
    drawActs();
    drawChoices();
    drawRows();
  };
  const nextOpen = () => {
    const order = [...listedPlaces.slice(shown + 1), ...listedPlaces.slice(0, Math.min(shown, listed))];
    return order.find(open) ?? null;
  };
  const go = (place, before) => { if (place >= 0 && place < listed) show(place, before); };

  // What is decided
  const apply = (changed) => {
    const differing = [];
    for (const [place, now] of Object.entries(changed)) {
      const item = items[place];
      if (item.step !== now.step || item.action !== now.action || item.chosen !== now.chosen) differing.push(Number(place));
      Object.assign(item, now);
    }
    return differing;
  };
  const decide = (wishes) => {
    const places = wishes.map((wish) => wish.item), from = shown;
    const before = places.map((place) => ({ ...items[place] }));
    for (const { item, action, label } of wishes) Object.assign(items[item], { action: action === "none" ? null : action, chosen: label });
    send({
      items: places,
      path: "/api/decisions",
      // what this window knows: `seen` is of the moment of the click, or of its own decision that was on its way then
      body: () => ({ changes: wishes.map((wish) => ({ ...wish, seen: items[wish.item].step })) }),
      done: ({ done, changed }) => {
        settled += 1;
        mine.push(done);
        apply(Object.fromEntries(Object.entries(changed).filter(([place]) => !isWaiting(Number(place)))));
        for (const [place, now] of Object.entries(changed)) items[place].step = now.step;
        redraw();
      },
      refused: (fault) => {
        before.forEach((item, at) => { if (!isWaiting(places[at])) Object.assign(items[places[at]], { action: item.action, chosen: item.chosen }); });
        if (fault.found.changed) apply(fault.found.changed);
        const first = items[places[0]];
        redraw();
        warn(fault.status === 409
          ? `Not saved: another window decided ${first.name} meanwhile${first.action ? ` (${wordOf(first)})` : ""}.`
          : `Not saved: ${first.name}: ${fault.message}.`, from);
      },
    });
    const next = nextOpen();
    const saved = `${wordOf(items[places[0]]) || "undecided"}. `;
    if (next === null) {
      show(shown, `${saved}All are decided. `);
      return;
    }
    show(next, saved);
  };
  const warn = (line, place = null) => { // stays until it is closed: whoever types fast does not look up at once
    at("notice").hidden = !line;
    at("notice-line").textContent = line;
    at("notice-show").hidden = place === null;
    at("notice-show").onclick = () => { warn(""); show(place); };
  };
  at("notice-close").addEventListener("click", () => { warn(""); focusPrimary(); });
  const choose = (label) => {
    const confirms = items[shown].label === label;
    decide([{ item: shown, action: confirms ? "confirm" : "label", label: confirms ? null : label }]);
  };
  const take = () => {
    const wish = target();
    if (wish?.action) decide([{ item: shown, action: wish.action, label: wish.label }]);
    else if (wish) show(nextOpen());
  };
  const exclude = () => decide([{ item: shown, action: "exclude", label: null }]);
  const excludeOther = () => {
    const item = items[shown], other = otherOf(item);
    if (!twin(item)) return;
    const keep = item.label === null ? [] : [{ item: shown, action: "confirm", label: null }];
    decide([...keep, { item: other, action: "exclude", label: null }]);
  };
  const undo = () => {
    send({
      items: [],
      path: "/api/undo",
      body: () => ({ step: mine.at(-1) ?? null }),
      done: ({ done, changed }) => {
        settled += 1;
        mine.pop();
        apply(changed);
        show(done.find((place) => place < listed) ?? done[0], "Undone. ");
      },
      refused: (fault) => {
        const own = fault.status === 409 ? mine.pop() : 0;
        const line = fault.status !== 409 ? `Not undone: ${fault.message}. `
          : own === undefined ? "Nothing to undo. " : "Not undone: another window decided this image since. ";
        tell(line);
        if (fault.status !== 409 || own !== undefined) warn(line);
      },
    });
  };

  // All images of the list
  let rows = ROWS;
  const drawRows = () => {
    if (!at("all").open) return;
    const words = plain(at("search").value).split(/\s+/).filter(Boolean), state = at("state").value;
    const found = listedPlaces.filter((place) => {
      if (state && (state === "open") !== open(place)) return false;
      const item = items[place];
      const text = words.length ? plain([item.name, nameOf(item.label), wordOf(item), ...item.findings.map((finding) => finding.kind)].join(" ")) : "";
      return words.every((word) => text.includes(word));
    });
    at("found").textContent = `${found.length} of ${listed} images`;
    at("rows").replaceChildren(...found.slice(0, rows).map((place) => {
      const line = make("li"), item = items[place];
      const button = make("button", undefined, { type: "button", class: "row", "data-place": place });
      if (place === shown) button.setAttribute("aria-current", "true");
      button.append(make("span", String(place + 1)), make("span", item.name, { dir: "auto" }), make("span", wordOf(item) || "undecided", { dir: "auto" }));
      button.addEventListener("click", () => { show(place); scrollTo(0, 0); });
      line.append(button);
      return line;
    }));
    at("more").hidden = found.length <= rows;
  };
  at("all").addEventListener("toggle", drawRows);
  at("more").addEventListener("click", () => {
    const next = rows;
    rows += ROWS;
    drawRows();
    at("rows").children[next]?.firstChild.focus();
  });
  for (const id of ["search", "state"]) at(id).addEventListener("input", () => { rows = ROWS; drawRows(); });

  // Hands
  const find = typeAhead(names, choose);
  if (few) at("choices").after(at("ahead")); // beside keys of their own the field is the second way
  const press = (id, act) => at(id).addEventListener("click", act);
  press("primary", take);
  press("exclude", exclude);
  press("exclude-other", excludeOther);
  press("undo", undo);
  press("previous", () => go(shown - 1));
  press("next", () => go(shown + 1));
  const toOpen = () => {
    const place = nextOpen();
    if (place === null) tell("No other image is undecided.");
    else show(place);
  };
  press("next-open", toOpen);
  const step_ = (by) => {
    const all = [...at("choices").children];
    const now = all.indexOf(document.activeElement);
    (all[now + by] || (by > 0 ? all[0] : all.at(-1)))?.focus();
  };
  const typing = (target) => target.matches("input:not([type=checkbox]), select, textarea");
  addEventListener("keydown", (event) => {
    if (at("walk").hidden || event.ctrlKey || event.metaKey || event.altKey || event.isComposing || typing(event.target)) return;
    if (event.key === "Enter") {
      const nowhere = event.target === document.body || event.target.id === "main";
      if (event.repeat || nowhere) event.preventDefault(); // a key that is held is one decision
      if (nowhere && !event.repeat) take();
      return;
    }
    const key = pressed(event);
    const plainly = { ArrowLeft: () => go(shown - 1), ArrowRight: () => go(shown + 1), ArrowUp: () => step_(-1), ArrowDown: () => step_(1) }[event.key];
    if (plainly) {
      plainly();
      event.preventDefault();
      return;
    }
    if (!at("single").checked || event.repeat) return;
    const act = { u: undo, x: exclude, o: excludeOther, n: toOpen, "/": () => find.start("") }[key];
    const button = few ? at("choices").children[placeOf(key)] : /^[1-9]$/.test(key) ? at("choices").children[Number(key) - 1] : null;
    if (act) act();
    else if (button && placeOf(key) >= 0) button.click();
    else if (!few && [...event.key].length === 1 && /\p{L}/u.test(event.key)) find.start(event.key);
    else return;
    event.preventDefault();
  });

  // Other windows
  const look = async () => {
    if (!document.hidden && !waiting()) {
      try {
        const before = settled;
        const { step: now, changed } = await get(`/api/changes?since=${step}`);
        if (!waiting() && before === settled) {
          step = now;
          const differing = apply(changed);
          if (differing.length) {
            redraw();
            if (differing.includes(shown)) tell(`Another window decided this image: ${wordOf(items[shown]) || "undecided"}.`);
          }
        }
        silent("");
      } catch (fault) {
        if (fault.status === 0 || fault.status === 403) silent(fault.message);
      }
    }
    setTimeout(look, EVERY);
  };
  setTimeout(look, EVERY);

  show(nextOpenFrom(0) ?? 0);
  function nextOpenFrom(place) { return listedPlaces.slice(place).find(open) ?? null; }
  return { shown: () => show(shown) };
};
