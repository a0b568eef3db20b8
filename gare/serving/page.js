"use strict";
// Everything from the index enters the page as text (textContent, setAttribute on addresses of this server), never as HTML.

const TOP = 12;
const HOVER_MS = 200;
const FLIP_MS = 700;
const find = (id) => document.getElementById(id);
const CALM = matchMedia("(prefers-reduced-motion: reduce)");
const HOVERS = matchMedia("(hover: hover)");
const TAKING_EFFECT =
  /[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]/gu;

let asked = { query: "", like: null, where: new Map(), offset: 0 };
let underway = null;
let about = null;

// Characters that change the direction of writing, or control characters, are shown as escapes.
function shown(text) {
  return String(text).replace(TAKING_EFFECT, (c) => "\\u" + c.codePointAt(0).toString(16).padStart(4, "0"));
}

function clock(seconds) {
  const whole = Math.max(0, Math.floor(seconds + 1e-6));
  const [h, m, s] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60, whole % 60];
  return (h ? h + ":" + String(m).padStart(2, "0") : m) + ":" + String(s).padStart(2, "0");
}

function span(moment) {
  if (moment.seconds === null) return moment.start_s > 0 ? "from " + clock(moment.start_s) : "";
  const [from, to] = [clock(moment.seconds[0]), clock(Math.ceil(moment.seconds[1] - 0.05))];
  return from === to ? from : from + "–" + to;
}

function button(text, act, label) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  if (label) made.setAttribute("aria-label", label);
  made.addEventListener("click", act);
  return made;
}

async function fetched(address, signal) {
  const response = await fetch(address, { signal, headers: { accept: "application/json" } });
  let answer = null;
  try {
    answer = await response.json();
  } catch (error) {
    if (signal && signal.aborted) throw error;
  }
  if (!response.ok || answer === null) {
    const failure = new Error(answer && answer.error ? answer.error : "The server answered with status " + response.status + ".");
    failure.retry = response.status === 503 ? Number(response.headers.get("retry-after")) || 1 : 0;
    throw failure;
  }
  return answer;
}

function waiting(seconds, signal) {
  return new Promise((done, fail) => {
    const timer = setTimeout(done, 1000 * seconds);
    signal.addEventListener("abort", () => {
      clearTimeout(timer);
      fail(new DOMException("", "AbortError"));
    });
  });
}

// --- searching

function parameters() {
  const found = new URLSearchParams();
  for (const [name, value] of asked.where) found.append("where", name + "=" + value);
  return found;
}

function address() {
  const found = parameters();
  if (asked.like !== null) found.set("like", asked.like);
  else if (asked.query) found.set("q", asked.query);
  const text = found.toString();
  return text ? "/?" + text : "/";
}

function readAddress() {
  const given = new URLSearchParams(location.search);
  asked = { query: given.get("q") || "", like: given.get("like"), where: new Map(), offset: 0 };
  for (const text of given.getAll("where")) {
    const known = about.facets.find((facet) => text.startsWith(facet.name + "="));
    const cut = known ? known.name.length : text.indexOf("=");
    if (cut > 0) asked.where.set(text.slice(0, cut), text.slice(cut + 1));
  }
}

function go(change) {
  asked = { ...asked, offset: 0, ...change };
  history.pushState(null, "", address());
  show();
}

async function show() {
  find("query").value = asked.query;
  find("like").hidden = asked.like === null;
  find("like-text").textContent = asked.like === null ? "" : "Videos like " + shown(asked.like);
  document.title = (asked.like === null ? asked.query : "like " + asked.like) || document.querySelector("h1").textContent;
  if (underway) underway.abort();
  if (asked.like === null && !asked.query.trim()) {
    find("results").replaceChildren();
    find("results").classList.remove("old");
    find("more").hidden = true;
    say(about ? "Describe what should be seen, such as “a person plays the guitar”." : "");
    if (about) filters(about.facets);
    return;
  }
  await load(false);
}

async function load(appending) {
  const task = (underway = new AbortController());
  const given = parameters();
  given.set("top", TOP);
  if (asked.offset) given.set("offset", asked.offset);
  if (asked.like === null) given.set("q", asked.query);
  const base = asked.like === null ? "/api/search?" : "/api/similar/" + encodeURIComponent(asked.like) + "?";
  const list = find("results");
  list.setAttribute("aria-busy", "true");
  list.classList.toggle("old", !appending);
  const slow = setTimeout(() => say("Searching…"), 300);
  try {
    for (let tries = 0; ; tries += 1) {
      try {
        answer(await fetched(base + given, task.signal), appending);
        break;
      } catch (error) {
        if (!error.retry || tries >= 5) throw error;
        say("Many are searching; trying again…");
        await waiting(error.retry * (1 + Math.random()), task.signal);
      }
    }
  } catch (error) {
    if (task.signal.aborted) return;
    list.replaceChildren();
    find("more").hidden = true;
    say(error instanceof TypeError ? "The server does not answer. Is gare serve still running?" : error.message, true);
  } finally {
    clearTimeout(slow);
    if (underway === task) {
      list.removeAttribute("aria-busy");
      list.classList.remove("old");
    }
  }
}

function say(text, failed = false) {
  find("status").textContent = text;
  find("status").classList.toggle("failed", failed);
}

function answer(found, appending) {
  const list = find("results");
  const first = appending ? list.children.length : 0;
  const cards = found.results.map((video, n) => card(video, first + n + 1));
  if (appending) list.append(...cards);
  else list.replaceChildren(...cards);
  find("more").hidden = !found.more;
  filters(found.facets);
  const how = found.searched;
  const count = list.children.length;
  const which = count === 1 ? "The best match" : "The " + count + " best matches";
  const lead = count ? which + ", best first" : "No video has these attributes";
  say(lead + " · " + how.text + " · " + Math.round(how.milliseconds) + " ms");
  if (appending && cards.length) list.children[first].querySelector(".view").focus();
}

function filters(facets) {
  const box = find("filters");
  const focused = document.activeElement && box.contains(document.activeElement) ? document.activeElement.name : null;
  const made = facets.map((facet, number) => {
    const label = document.createElement("label");
    const chosen = asked.where.get(facet.name);
    const change = (event) => {
      const where = new Map(asked.where);
      if (event.target.value) where.set(facet.name, event.target.value);
      else where.delete(facet.name);
      go({ where });
    };
    label.append(shown(facet.name));
    label.append(facet.more ? typed(facet, number, chosen, change) : listed(facet, chosen, change));
    return label;
  });
  box.replaceChildren(...made);
  if (focused !== null) {
    const again = [...box.querySelectorAll("select, input")].find((one) => one.name === focused);
    if (again) again.focus();
  }
}

function listed(facet, chosen, change) {
  const select = document.createElement("select");
  const values = facet.values.map(({ value, videos }) => [value, shown(value) + " (" + videos.toLocaleString() + ")"]);
  if (chosen !== undefined && !facet.values.some((one) => one.value === chosen)) values.push([chosen, shown(chosen) + " (0)"]);
  for (const [value, text] of [["", "any"], ...values]) {
    const option = new Option(text, value, false, value === (chosen || ""));
    select.append(option);
  }
  select.name = facet.name;
  select.classList.toggle("on", chosen !== undefined);
  select.addEventListener("change", change);
  return select;
}

function typed(facet, number, chosen, change) {
  const both = document.createDocumentFragment();
  const input = document.createElement("input");
  const list = document.createElement("datalist");
  list.id = "values-" + number;
  for (const { value, videos } of facet.values) {
    const option = new Option(videos.toLocaleString(), value);
    list.append(option);
  }
  input.setAttribute("list", list.id);
  input.name = facet.name;
  input.value = chosen || "";
  input.placeholder = "any";
  input.maxLength = 900;
  input.classList.toggle("on", chosen !== undefined);
  input.addEventListener("change", change);
  both.append(input, list);
  return both;
}

// --- cards

function card(video, place) {
  const made = find("card").content.firstElementChild.cloneNode(true);
  const view = made.querySelector(".view");
  const image = view.querySelector("img");
  const at = nearest(video, video.start_s, video.seconds);
  if (video.pictures.length) image.src = video.pictures[at].url;
  else {
    image.remove();
    view.querySelector(".none").hidden = false;
  }
  made.querySelector(".when").textContent = span(video);
  view.setAttribute("aria-label", (video.video ? "Play " : "Show ") + shown(video.name) + (span(video) ? ", " + span(video) : ""));
  view.addEventListener("click", () => play(video, video));
  made.querySelector(".name").textContent = shown(video.name);
  made.querySelector(".score").textContent = place + " · cosine " + video.score.toFixed(3);
  for (const moment of video.moments) {
    made.querySelector(".moments").append(button(clock(moment.start_s), () => play(video, moment), "Play from " + clock(moment.start_s)));
  }
  for (const [name, value] of Object.entries(video.attributes)) {
    if (value === video.name) continue;
    const filter = () => go({ where: new Map(asked.where).set(name, value) });
    made.querySelector(".tags").append(button(shown(name) + ": " + shown(value), filter, "Only videos with " + shown(name) + " " + shown(value)));
  }
  made.querySelector(".similar").addEventListener("click", () => go({ like: video.id }));
  made.querySelector(".similar").setAttribute("aria-label", "More like " + shown(video.name));
  hovering(view, video);
  return made;
}

// The number of the picture in the middle of a window, or the nearest to its start.
function nearest(video, start, seconds) {
  const middle = seconds ? (seconds[0] + seconds[1]) / 2 : start;
  let best = 0;
  video.pictures.forEach((picture, n) => {
    if (Math.abs(picture.at_s - middle) < Math.abs(video.pictures[best].at_s - middle)) best = n;
  });
  return best;
}

function hovering(view, video) {
  let timer = null;
  let end = () => {};
  view.addEventListener("pointerenter", (event) => {
    if (!HOVERS.matches || CALM.matches || event.pointerType === "touch") return;
    timer = setTimeout(() => (end = video.video ? playing(view, video) : flipping(view, video)), HOVER_MS);
  });
  view.addEventListener("pointerleave", () => {
    clearTimeout(timer);
    end();
    end = () => {};
  });
}

function playing(view, video) {
  const clip = document.createElement("video");
  const [from, to] = video.seconds || [video.start_s, Infinity];
  clip.muted = clip.loop = clip.playsInline = true;
  clip.tabIndex = -1;
  clip.setAttribute("aria-hidden", "true");
  let stopped = () => {};
  clip.addEventListener("loadedmetadata", () => (clip.currentTime = from));
  clip.addEventListener("timeupdate", () => {
    if (clip.currentTime >= to && to > from) clip.currentTime = from;
  });
  clip.addEventListener("error", () => {
    clip.remove();
    stopped = flipping(view, video);
  });
  clip.src = video.video;
  view.insertBefore(clip, view.querySelector(".when"));
  clip.play().catch(() => {});
  return () => {
    clip.removeAttribute("src");
    clip.load();
    clip.remove();
    stopped();
  };
}

function flipping(view, video) {
  const image = view.querySelector("img");
  if (!image || video.pictures.length < 2) return () => {};
  const before = image.src;
  let n = 0;
  const timer = setInterval(() => (image.src = video.pictures[n++ % video.pictures.length].url), FLIP_MS);
  return () => {
    clearInterval(timer);
    image.src = before;
  };
}

// --- the player

let flips = null;

function play(video, moment) {
  const dialog = find("player");
  const clip = find("video");
  find("player-name").textContent = shown(video.name);
  find("why-not").textContent = "";
  const seek = (start) => {
    if (!find("flip").hidden) turn(video, nearest(video, start, null));
    else {
      clip.currentTime = start;
      clip.play().catch(() => {});
    }
  };
  const pictures = (why) => {
    clip.hidden = true;
    find("flip").hidden = false;
    find("why-not").textContent = why + (video.pictures.length ? " These are its stored pictures." : " The index keeps no pictures of it.");
    find("flip-place").max = Math.max(0, video.pictures.length - 1);
    find("flip").querySelector(".controls").hidden = video.pictures.length < 2;
    find("flip-place").oninput = () => turn(video, Number(find("flip-place").value));
    find("flip-play").onclick = () => (flips === null ? startFlips(video) : stopFlips());
    turn(video, nearest(video, moment.start_s, moment.seconds));
  };
  clip.hidden = false;
  find("flip").hidden = true;
  if (video.video) {
    clip.onloadedmetadata = () => seek(moment.start_s);
    clip.onerror = () => clip.getAttribute("src") && pictures("This browser cannot play the file.");
    clip.src = video.video;
  } else pictures(video.why_not || "");
  strip(video, moment, seek);
  const all = [video, ...video.moments];
  const buttons = all.map((one) => button(span(one) || clock(one.start_s), () => seek(one.start_s), "Go to " + clock(one.start_s)));
  find("player-moments").replaceChildren(...(all.length > 1 ? buttons : []));
  facts(video, moment);
  dialog.showModal();
  find(video.video ? "video" : "player-close").focus();
}

function strip(video, moment, seek) {
  const best = nearest(video, moment.start_s, moment.seconds);
  find("strip").replaceChildren(
    ...video.pictures.map((picture, n) => {
      const made = button("", () => seek(picture.at_s), "Go to " + clock(picture.at_s));
      const image = document.createElement("img");
      const time = document.createElement("span");
      image.src = picture.url;
      image.alt = "";
      time.textContent = clock(picture.at_s);
      made.append(image, time);
      made.classList.toggle("best", n === best && moment.seconds !== null);
      return made;
    })
  );
}

function facts(video, moment) {
  const rows = [["file", video.uri], ["clip", moment.id], ["rank among all clips", moment.rank], ["cosine", moment.score.toFixed(4)]];
  if (moment.seconds) rows.push(["fits best", moment.seconds.map((s) => s.toFixed(1)).join(" to ") + " s"]);
  find("facts").replaceChildren(
    ...[...rows, ...Object.entries(video.attributes)].flatMap(([name, value]) => {
      const both = [document.createElement("dt"), document.createElement("dd")];
      both[0].textContent = shown(name);
      both[1].textContent = shown(value);
      return both;
    })
  );
}

function turn(video, n) {
  const picture = video.pictures[n];
  find("flip-picture").hidden = !picture;
  if (!picture) return;
  find("flip-picture").src = picture.url;
  find("flip-picture").alt = "At " + clock(picture.at_s);
  find("flip-place").value = n;
  find("flip-place").setAttribute("aria-valuetext", clock(picture.at_s));
  find("flip-time").textContent = clock(picture.at_s);
}

function startFlips(video) {
  find("flip-play").textContent = "Pause";
  find("flip-play").setAttribute("aria-pressed", "true");
  flips = setInterval(() => turn(video, (Number(find("flip-place").value) + 1) % video.pictures.length), FLIP_MS);
}

function stopFlips() {
  clearInterval(flips);
  flips = null;
  find("flip-play").textContent = "Play";
  find("flip-play").setAttribute("aria-pressed", "false");
}

find("player").addEventListener("close", () => {
  stopFlips();
  find("video").removeAttribute("src");
  find("video").load();
});
find("player").addEventListener("click", (event) => event.target === find("player") && find("player").close());
find("player-close").addEventListener("click", () => find("player").close());

// --- keys and the beginning

document.addEventListener("keydown", (event) => {
  if (find("player").open || event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = /^(INPUT|SELECT|TEXTAREA)$/.test(event.target.tagName);
  if (event.key === "/" && !typing) {
    event.preventDefault();
    find("query").focus();
    find("query").select();
  }
  const views = [...document.querySelectorAll(".view")];
  const here = views.indexOf(event.target.closest(".view"));
  if (here < 0 || !event.key.startsWith("Arrow")) return;
  const row = views.filter((view) => view.offsetTop === views[0].offsetTop).length || 1;
  const step = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -row, ArrowDown: row }[event.key];
  const next = views[here + step];
  if (next) {
    event.preventDefault();
    next.focus();
  }
});

find("search").addEventListener("submit", (event) => {
  event.preventDefault();
  go({ query: find("query").value, like: null });
});
find("like-end").addEventListener("click", () => go({ like: null }));
find("more").addEventListener("click", () => {
  asked = { ...asked, offset: asked.offset + TOP };
  load(true);
});
window.addEventListener("popstate", () => {
  if (!about) return;
  if (find("player").open) find("player").close();
  readAddress();
  show();
});

async function begin() {
  try {
    about = await fetched("/api/about");
    const more = [about.model, about.windows ? "" : "keeps no windows", about.previews ? "" : "keeps no pictures"].filter(Boolean);
    find("about").textContent = about.videos.toLocaleString() + " videos · " + more.map(shown).join(" · ");
    if (about.problem) find("about").textContent += " · " + about.problem;
  } catch (error) {
    say(error.message, true);
    return;
  }
  readAddress();
  show();
}

begin();
