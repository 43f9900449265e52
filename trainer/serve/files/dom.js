// All text goes in by textContent; nothing is made from strings of HTML.
export const at = (id) => document.getElementById(id);
export const make = (tag, text, attributes = {}) => {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text;
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  return made;
};
export const plain = (text) => text.normalize("NFKD").replace(/\p{M}/gu, "").toLowerCase();
export const percent = (share) => (share > 0 && share < 0.01 ? "< 1 %" : `${Math.round(share * 100)} %`);

let waiting;
export const tell = (line) => { // the same line twice is spoken twice
  clearTimeout(waiting);
  at("said").textContent = "";
  waiting = setTimeout(() => { at("said").textContent = line; }, 30);
};

// What a picture was taken for: a class, its probability, the sentences that are nearest to the picture
export const answers = (classes, most = 3) => classes.slice(0, most).map(({ name, probability, sentences }) => {
  const box = make("div", undefined, { class: "said-of" });
  const head = make("h3");
  head.style.setProperty("--share", probability);
  head.append(make("span", name, { dir: "auto" }), make("span", percent(probability)));
  box.append(head);
  const list = make("ul");
  for (const { text, cosine, attention } of sentences) {
    const row = make("li");
    const worth = attention === null ? `cosine ${cosine.toFixed(2)}` : `cosine ${cosine.toFixed(2)}, attention ${percent(attention)}`;
    row.append(make("span", text, { dir: "auto" }), make("span", worth));
    list.append(row);
  }
  if (sentences.length) box.append(list);
  return box;
});
