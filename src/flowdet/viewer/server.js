"use strict";

const data = JSON.parse(document.getElementById("data").textContent);
const $ = (id) => document.getElementById(id);
let job = null;

function tell(message, share) {
  $("job").hidden = false;
  if ($("message").textContent !== message) $("message").textContent = message;
  if (share === undefined) $("progress").removeAttribute("value"); else $("progress").value = share;
}

function ended(message) {
  job = null;
  tell(message, 0);
  $("cancel").hidden = true;
}

async function begin(address, body) {
  $("cancel").hidden = false;
  tell(body ? "Uploading" : "Starting");
  const answer = await fetch(address, { method: "POST", body, headers: body ? { "Content-Type": "application/octet-stream" } : {} });
  const found = await answer.json();
  if (!answer.ok) { ended(`Not taken: ${found.message}.`); return; }
  job = found.id;
  follow(job);
}

async function follow(id) {
  while (job === id) {
    const answer = await fetch(`/jobs/${id}`);
    const found = await answer.json();
    if (!answer.ok || found.state === "failed") { ended(`Failed: ${found.message}.`); return; }
    if (found.state === "done") { location.href = `/jobs/${id}/page`; return; }
    if (found.state === "running") {
      const share = found.total ? found.done / found.total : undefined;
      const of = found.total ? ` of ${found.total}` : "";
      tell(share >= 1 ? "Making the page" : `Detecting: frame ${found.done}${of}`, share);
    } else tell("Waiting for other clips");
    await new Promise((resolve) => setTimeout(resolve, 400));
  }
}

const failed = () => ended("The server does not answer: is it still running?");

$("limit").textContent = `MP4, MOV, WebM, Matroska or AVI, up to ${Math.floor(data.largest / 2 ** 20)} MB.`;
$("chooser").addEventListener("change", () => {
  const [file] = $("chooser").files;
  if (!file) return;
  if (file.size > data.largest) ended("Not taken: the file is too large.");
  else begin("/jobs", file).catch(failed);
});
$("cancel").addEventListener("click", () => {
  if (job) fetch(`/jobs/${job}`, { method: "DELETE" });
  ended("Cancelled.");
});
$("clips-section").hidden = !data.clips.length;
data.clips.forEach((name, number) => {
  const button = Object.assign(document.createElement("button"), { type: "button", textContent: name });
  button.addEventListener("click", () => begin(`/clips/${number}`).catch(failed));
  const item = document.createElement("li");
  item.append(button);
  $("clips").append(item);
});
