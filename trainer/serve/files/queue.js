// Decisions on their way to the file, one after the other. None is dropped: while the server is silent they wait.
import { post } from "./api.js";
import { at } from "./dom.js";

const jobs = [];
let working = false, retry;

const trouble = (line) => {
  at("trouble").hidden = !line;
  if (line && at("trouble-line").textContent !== line) at("trouble-line").textContent = line;
};

export const waiting = () => jobs.length;
export const isWaiting = (item) => jobs.some((job) => job.items.includes(item));

// job: {items, path, body(), done(answer), refused(fault)}
export const send = (job) => {
  jobs.push(job);
  work();
};

const work = async () => {
  clearTimeout(retry);
  if (working) return;
  working = true;
  while (jobs.length) {
    const job = jobs[0];
    try {
      const answer = await post(job.path, job.body());
      jobs.shift();
      trouble("");
      job.done(answer);
    } catch (fault) {
      const lines = jobs.length === 1 ? "1 decision is not saved yet" : `${jobs.length} decisions are not saved yet`;
      if (fault.status === 0 || fault.status === 503) {
        trouble(`${lines}: the server does not answer. They are sent when it does.`);
        retry = setTimeout(work, 2000);
        break;
      }
      if (fault.status === 403) {
        trouble(`${lines}: ${fault.message}.`);
        break;
      }
      jobs.shift();
      job.refused(fault);
    }
  }
  working = false;
};

at("again").addEventListener("click", work);
addEventListener("beforeunload", (event) => { if (jobs.length) event.preventDefault(); });
