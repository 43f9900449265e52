// The one way to the server: every request carries the session's token, which stands after the # of the address.
const given = location.hash.slice(1);
try { if (given) sessionStorage.setItem("token", given); } catch { /* a browser without storage keeps the address */ }
const token = () => {
  if (location.hash.length > 1 && location.hash !== "#main") return location.hash.slice(1);
  try { return sessionStorage.getItem("token") || ""; } catch { return ""; }
};

export class Refused extends Error {
  constructor(status, line, found) {
    super(line);
    this.status = status; // 0: no answer at all
    this.found = found;
  }
}

const ask = async (path, options = {}) => {
  let answer;
  try {
    answer = await fetch(path, { ...options, headers: { ...options.headers, "X-Session-Token": token() } });
  } catch {
    throw new Refused(0, "the server does not answer", {});
  }
  if (answer.ok) return answer;
  let found = {};
  try { found = await answer.json(); } catch { /* no JSON: the status has to do */ }
  throw new Refused(answer.status, found.error || `the server answered ${answer.status}`, found);
};

export const get = async (path) => (await ask(path)).json();
export const post = async (path, value) =>
  (await ask(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(value) })).json();
export const upload = async (path, file) =>
  (await ask(path, { method: "POST", headers: { "Content-Type": "application/octet-stream" }, body: file })).json();
export const blob = async (path) => (await ask(path)).blob();
