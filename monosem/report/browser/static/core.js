"use strict";
/* What every page needs: data by script tag (a page on disk may not fetch), elements without markup,
   text made harmless, numbers, links and the theme. Nothing here or elsewhere writes markup from strings. */

const M = (() => {
  const DATA = new Map();
  const WAITING = new Map();
  const policy = window.trustedTypes
    ? trustedTypes.createPolicy("monosem", { createScriptURL: (url) => url })
    : { createScriptURL: (url) => url };

  /** Data files call this with their name and their value: JSON, deflated, in base64. */
  function put(name, packed) {
    DATA.set(name, packed);
  }

  async function unpacked(name) {
    const bytes = Uint8Array.from(atob(DATA.get(name)), (c) => c.charCodeAt(0));
    DATA.delete(name);
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("deflate"));
    return new Response(stream).json();
  }

  /** A promise of the data called `name`, as in "quickstart/8x/rows-3"; its file is read once. */
  function load(name) {
    if (!WAITING.has(name)) {
      WAITING.set(name, new Promise((resolve, reject) => {
        const script = document.createElement("script");
        script.src = policy.createScriptURL("data/" + name.split("/").map(encodeURIComponent).join("/") + ".js");
        script.onload = () => {
          script.remove();
          if (DATA.has(name)) unpacked(name).then(resolve, reject);
          else reject(new Error(`${name}: no data in its file`));
        };
        script.onerror = () => reject(new Error(`${name}: its file is missing`));
        document.head.append(script);
      }));
      WAITING.get(name).catch(() => WAITING.delete(name));      // the next who asks tries again
    }
    return WAITING.get(name);
  }

  /** Base64 of little-endian numbers, as a typed array of `Kind`. */
  function numbers(base64, Kind = Float32Array) {
    return new Kind(Uint8Array.from(atob(base64), (c) => c.charCodeAt(0)).buffer);
  }

  const SVG = "http://www.w3.org/2000/svg";
  const DRAWN = new Set(["svg", "g", "path", "line", "rect", "circle", "text", "polyline"]);

  /** An element. Attributes: `on...` are listeners, `style` an object of CSS properties, `svg` for a link or a title
      inside a drawing; children: nodes or text. */
  function el(tag, attributes = {}, ...children) {
    const drawn = attributes.svg || DRAWN.has(tag);
    const node = drawn ? document.createElementNS(SVG, tag) : document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) {
      if (value === null || value === undefined || value === false || name === "svg") continue;
      if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
      else if (name === "style") for (const [key, v] of Object.entries(value)) node.style.setProperty(key, v);
      else node.setAttribute(name, value === true ? "" : value);
    }
    node.append(...children.flat(Infinity).filter((c) => c !== null && c !== undefined && c !== false));
    return node;
  }

  const NAMES = { "\n": "\u21b5", "\r": "\u240d", "\t": "\u21e5", "\u00a0": "\u237d" };
  // Whatever draws nothing or turns text around: marks, overrides, separators, tags, fillers, an empty Braille cell, lone
  // surrogates. Three are part of ordinary writing (of Persian, of emoji), and are spelled out only if nothing else is there.
  const JOINERS = /^[\u200c\u200d\ufe0f]+$/;
  const UNSEEN = /[\u2028\u2029\u2800\ufff9-\ufffb]|[\ud800-\udfff]|(?![\u200c\u200d\ufe0f])\p{Default_Ignorable_Code_Point}/gu;

  const spelled = (c) => `\u2039U+${c.codePointAt(0).toString(16).toUpperCase().padStart(4, "0")}\u203a`;

  /** Text as it may stand on a page: what is invisible or turns other text around is spelled out. */
  function visible(text, longest = 80) {
    const short = text.length > longest ? text.slice(0, longest).replace(/[\ud800-\udbff]$/, "") + "\u2026" : text;
    return short
      .replace(JOINERS, (all) => Array.from(all, spelled).join(""))
      .replace(/[\n\r\t\u00a0]/g, (c) => NAMES[c])
      .replace(/[\u0000-\u001f]/g, (c) => String.fromCharCode(0x2400 + c.charCodeAt(0)))
      .replace(/[\u007f-\u009f]/g, (c) => `\\x${c.charCodeAt(0).toString(16)}`)
      .replace(UNSEEN, spelled)
      .replace(/(\p{M}{4})\p{M}+/gu, "$1\u2026");
  }

  /** A word or token in a line of other text, kept from turning that text around. */
  function word(text, attributes = {}) {
    const shown = visible(text).replace(/^ /, "\u2423").replace(/ $/, "\u2423");
    const dir = /\\x[0-9a-f]{2}/.test(text) ? "ltr" : null;     // bytes keep their order in a line of Hebrew
    return el("bdi", { dir, ...attributes, class: `token ${attributes.class || ""}`.trim() }, shown === "" ? "\u2205" : shown);
  }

  function number(x, digits = 3) {
    if (x === null || x === undefined || Number.isNaN(x)) return "\u2013";
    if (x === 0) return "0";
    const size = Math.abs(x);
    const text = size >= 1e-3 && size < 1e5 ? String(Number(x.toPrecision(digits))) : x.toExponential(digits - 1);
    return text.replace("-", "\u2212");
  }

  function count(n) {
    return n.toLocaleString("en");
  }

  /** A density as a percentage, or as one in so many where it is small. */
  function percent(share) {
    if (share === null || share === undefined) return "\u2013";
    return share === 0 ? "0 %" : `${number(100 * share)} %`;
  }

  function link(page, ...parts) {
    return `${page}.html` + (parts.length ? "#" + parts.map(encodeURIComponent).join("/") : "");
  }

  function route() {
    const address = location.hash.slice(1).replace(/\/+$/, "");
    return (address ? address.split("/") : []).map((part) => {
      try {
        return decodeURIComponent(part);
      } catch {
        return part;
      }
    });
  }

  function keep(key, value) {
    try {
      localStorage.setItem(`monosem:${key}`, value);
    } catch { /* a browser that keeps nothing: the page works without */ }
  }

  function kept(key) {
    try {
      return localStorage.getItem(`monosem:${key}`);
    } catch {
      return null;
    }
  }

  function setTheme(theme) {
    document.documentElement.style.colorScheme = theme || "";
    document.documentElement.dataset.theme = theme || "";
    window.dispatchEvent(new Event("theme"));
  }
  setTheme(kept("theme"));

  return { put, load, numbers, el, visible, word, number, count, percent, link, route, keep, kept, setTheme };
})();
