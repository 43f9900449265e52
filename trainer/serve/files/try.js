// A picture that is dropped, chosen or pasted: what it is taken for. Nothing of it is kept.
import { upload } from "./api.js";
import { answers, at, percent } from "./dom.js";

const MOST = 32 * 2 ** 20;
let address = "", turn = 0;

const classify = async (files, come) => {
  const [file, ...others] = [...files];
  if (!file) return;
  come();
  turn += 1;
  const own = turn, name = file.name || "pasted image";
  const say = (line) => {
    if (own !== turn) return;
    at("try-line").textContent = line;
  };
  at("tried").hidden = true;
  if (file.size > MOST) return say(`${name}: larger than 32 MiB.`);
  say(`${name} …`);
  try {
    const { classes } = await upload("/api/upload", file);
    if (own !== turn) return;
    URL.revokeObjectURL(address);
    address = URL.createObjectURL(file);
    at("tried-picture").src = address;
    at("tried-name").textContent = name;
    at("tried-answer").replaceChildren(...answers(classes, 5));
    at("tried").hidden = false;
    const [first] = classes;
    say(`${first.name}, ${percent(first.probability)}${others.length ? `. One image at a time: ${others.length} more left aside.` : ""}`);
  } catch (fault) {
    say(`${name}: ${fault.message}.`);
  }
};

export const tryOut = (about, come) => {
  at("drop").hidden = !about.uploads;
  at("silence").hidden = about.uploads;
  at("silence").textContent = about.silence || about.notes[0] || "";
  if (!about.uploads) {
    at("try-lead").hidden = true;
    for (const kind of ["dragover", "drop"]) addEventListener(kind, (event) => event.preventDefault());
    return;
  }
  at("file").addEventListener("change", () => { classify(at("file").files, come); at("file").value = ""; });
  addEventListener("dragover", (event) => { event.preventDefault(); document.body.classList.add("dragging"); });
  addEventListener("dragleave", (event) => { if (!event.relatedTarget) document.body.classList.remove("dragging"); });
  addEventListener("drop", (event) => {
    event.preventDefault();
    document.body.classList.remove("dragging");
    classify(event.dataTransfer.files, come);
  });
  addEventListener("paste", (event) => { if (event.clipboardData.files.length) classify(event.clipboardData.files, come); });
};
