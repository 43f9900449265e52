// Decisions on their way to the file, one after the other. None is dropped: while the server is silent they wait.
import { post } from "./api.js";
import { at } from "./dom.js";

const jobs = [];
let working = false, retry, why = "";

const trouble = (reason) => {
  why = reason;
  const count = !jobs.length ? "Every decision is saved, but" : jobs.length === 1 ? "1 decision is not saved yet:" : `${jobs.length} decisions are not saved yet:`;
  const line = why && `${count} ${why}.`;
  at("trouble").hidden = !line;
  if (at("trouble-line").textContent !== line) at("trouble-line").textContent = line;
};

// What somebody else found: the server does not answer, or "" where it does
export const silent = (reason) => { if (!jobs.length) trouble(reason); };
export const waiting = () => jobs.length;
export const isWaiting = (item) => jobs.some((job) => job.items.includes(item));

// job: {items, path, body(), done(answer), refused(fault)}
export const send = (job) => {
  jobs.push(job);
  if (why) trouble(why); // one more that waits
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
      if ([0, 403, 503].includes(fault.status)) {
        trouble(fault.message);
        if (fault.status !== 403) retry = setTimeout(work, 2000);
        break;
      }
      // what was meant to follow on the same image rests on what was refused
      jobs.splice(0, jobs.length, ...jobs.slice(1).filter((other) => !other.items.some((item) => job.items.includes(item))));
      job.refused(fault);
    }
  }
  working = false;
};

at("again").addEventListener("click", work);
addEventListener("beforeunload", (event) => { if (jobs.length) event.preventDefault(); });
