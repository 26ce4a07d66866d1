// The terminal that the screen model is compared with. Reads one request a line as JSON and answers each with one line.
//
// compare: { cols, rows, scrollback, a: [step], b: [step], rest: [step] }: two terminals take their steps and are
//   compared; then both take `rest` and are compared again. The answer is the list of differences.
// view: { cols, rows, window, offset, a: [step], b: [step] }: what `b` draws in the window is what `a` has from the
//   offset on.
// widths: the ranges of code points that take no or two columns.
//
// A step is { w: base64 } to write or { r: [cols, rows] } to resize. Bytes are decoded as the web page does it, so that
// what is not UTF-8 shows as U+FFFD. Each allowance has its number in docs/screen.md.

import { createInterface } from 'node:readline';
import headless from '@xterm/headless';
import unicode11 from '@xterm/addon-unicode11';

const { Terminal } = headless;

function open(cols, rows, scrollback = 0) {
  const term = new Terminal({ cols, rows, scrollback, allowProposedApi: true, logLevel: 'off' });
  term.loadAddon(new unicode11.Unicode11Addon());
  term.unicode.activeVersion = '11';
  const seen = { term, title: '', decoder: new TextDecoder('utf-8', { ignoreBOM: true }) };
  term.onTitleChange(title => { seen.title = title; });
  return seen;
}

async function play(seen, steps) {
  for (const step of steps) {
    if (step.r) {
      seen.term.resize(step.r[0], step.r[1]);
    } else {
      const text = seen.decoder.decode(Buffer.from(step.w, 'base64'), { stream: true });
      await new Promise(done => seen.term.write(text, done));
    }
  }
}

function attributes(cell, links) {
  const list = [];
  const color = (name, mode, value) => { if (mode) list.push(`${name}=${mode >> 24}:${value.toString(16)}`); };
  color('fg', cell.getFgColorMode(), cell.getFgColor());
  color('bg', cell.getBgColorMode(), cell.getBgColor());
  const flags = ['Bold', 'Dim', 'Italic', 'Blink', 'Inverse', 'Invisible', 'Strikethrough', 'Overline'];
  for (const flag of flags) if (cell[`is${flag}`]()) list.push(flag);
  if (cell.isUnderline()) {
    list.push(`underline=${cell.getUnderlineStyle()}`);
    if (!cell.isUnderlineColorDefault()) color('line', cell.getUnderlineColorMode(), cell.getUnderlineColor());
  }
  const link = cell.extended.urlId && links.getLinkData(cell.extended.urlId);
  if (link) list.push(`link=${link.uri}`);
  return list.join(' ');
}

// One cell as text. Allowance 2: an empty cell with more than a ground is a space.
function show(line, x, links) {
  const cell = line.loadCell(x, new Cell());
  const width = cell.getWidth();
  let chars = cell.getChars();
  if (width === 0 && !chars && !(x > 0 && line.getWidth(x - 1) === 2)) return 'half';
  const look = attributes(cell, links);
  if (!chars && width === 1 && look && !/^bg=\S+$/.test(look)) chars = ' ';
  return `${JSON.stringify(chars)}/${width} ${look}`;
}

let Cell;
{
  const probe = new Terminal({ cols: 2, rows: 1, allowProposedApi: true });
  Cell = probe.buffer.active.getNullCell().constructor;
}

function rows(term, buffer) {
  const core = term._core;
  const all = [];
  for (let y = 0; y < core.rows; y++) {
    const line = buffer.lines.get(buffer.ybase + y);
    const cells = [];
    for (let x = 0; x < core.cols; x++) cells.push(show(line, x, core._oscLinkService));
    all.push({ cells, wrapped: line.isWrapped });
  }
  return all;
}

function charset(set) {
  return set ? JSON.stringify(set).slice(0, 12) : 'ascii';
}

function state({ term, title }) {
  const core = term._core;
  const { normal, alt, active } = core.buffers;
  const buffer = one => ({
    region: [one.scrollTop, one.scrollBottom],
    tabs: Object.keys(one.tabs).filter(x => one.tabs[x] && x < core.cols).join(),
    saved: [Math.min(one.savedX, core.cols - 1), one.savedY - one.ybase, charset(one.savedCharset)],
  });
  const { synchronizedOutput, ...modes } = core.coreService.decPrivateModes;
  const charsets = core._charsetService;
  const pen = core._inputHandler._curAttrData;
  const kept = {
    active: active === alt ? 'alternate' : 'main',
    cursor: [active.x, active.y],
    hidden: core.coreService.isCursorHidden,
    title,
    pen: attributes(Object.assign(new Cell(), { fg: pen.fg, bg: pen.bg, extended: pen.extended }), core._oscLinkService),
    insert: core.coreService.modes.insertMode,
    newline: core.optionsService.rawOptions.convertEol,
    mouse: [core.coreMouseService.activeProtocol, core.coreMouseService.activeEncoding],
    charsets: [charsets.glevel, charset(charsets.charset), ...[0, 1, 2, 3].map(at => charset(charsets._charsets[at]))],
    main: buffer(normal),
    modes: JSON.stringify(modes),
  };
  if (active === alt) kept.alternate = buffer(alt);
  return { kept, main: rows(term, normal), alternate: active === alt ? rows(term, alt) : [] };
}

const first = when => when === 'at the cut';

function same(cell, other) {
  if (cell === other) return true;
  // Allowance 1: half a wide character that lost the other half is an empty cell.
  if (cell === 'half') return /^" ?"\/1/.test(other);
  // Allowance 4: the underline after SGR 59 has no colour of its own.
  const own = / line=/.test(other) ? cell : cell.replace(' line=3:ffffff', '');
  // Allowance 6: a link is forgotten with the row that it began in.
  return own === (/ link=/.test(cell) ? other : other.replace(/ ?link=[^ "]+/, ''));
}

function compare(a, b, when, out, lost = {}) {
  const [one, two] = [state(a), state(b)];
  // Allowance 7: a mark that stands alone behind the last column moves the cursor out of the screen.
  if (one.kept.cursor[0] > a.term.cols) return;
  // Allowance 8: the alternate screen has no saved cursor from the last time that it was shown.
  const [kept, fresh] = [one.kept.alternate, two.kept.alternate];
  if (first(when) && kept && fresh?.saved.join() === '0,0,ascii') kept.saved = fresh.saved;
  for (const key of Object.keys({ ...one.kept, ...two.kept })) {
    const [left, right] = [JSON.stringify(one.kept[key]), JSON.stringify(two.kept[key])];
    if (left !== right && !(key === 'pen' && same(one.kept.pen, two.kept.pen))) out.push(`${when}: ${key}: ${left} but ${right}`);
  }
  for (const screen of ['main', 'alternate']) {
    // Allowance 5: whether the first row goes on from one that has left the screen; the rest may move that row.
    const moved = one[screen].filter((row, y) => row.wrapped && !two[screen][y]?.wrapped).length === 1 && lost[screen];
    if (first(when)) lost[screen] = one[screen][0]?.wrapped;
    one[screen].forEach((row, y) => {
      const other = two[screen][y];
      const top = y === 0 && first(when);
      if (row.wrapped !== other?.wrapped && !top && !(moved && row.wrapped)) out.push(`${when}: ${screen} row ${y}: wrapped: ${row.wrapped} but ${other?.wrapped}`);
      row.cells.forEach((cell, x) => {
        if (cell === other?.cells[x]) return;
        if (same(cell, other?.cells[x] ?? '')) return;
        // Allowance 3: an erased cell in which the cursor waits to go to the next row is a space; the rest may move it.
        const [column, line] = one.kept.cursor;
        const waits = first(when) ? column === row.cells.length && x === column - 1 && y === line : lost.space-- > 0;
        if (waits && cell.startsWith('""/1') && other?.cells[x] === cell.replace('""', '" "')) {
          lost.space = 1;
          return;
        }
        out.push(`${when}: ${screen} row ${y} column ${x}: ${cell} but ${other?.cells[x]}`);
      });
    });
  }
}

async function comparison({ cols, rows, scrollback, a, b, rest }) {
  const [one, two] = [open(cols, rows, scrollback), open(cols, rows, scrollback)];
  const out = [];
  await play(one, a);
  await play(two, b);
  const lost = {};
  compare(one, two, 'at the cut', out, lost);
  if (!out.length && rest?.length) {
    await play(one, rest);
    await play(two, rest);
    compare(one, two, 'after the rest', out, lost);
  }
  one.term.dispose();
  two.term.dispose();
  return out.slice(0, 20);
}

async function view({ cols, rows, window, offset, a, b }) {
  const [one, two] = [open(cols, rows), open(window[0], window[1])];
  const out = [];
  await play(one, a);
  await play(two, b);
  const shown = one.term._core.buffers.active === one.term._core.buffers.alt ? 'alternate' : 'main';
  const [session, drawn] = [state(one), state(two)];
  const blank = ['" "/1 ', '""/1 '];
  const text = cell => cell?.replace('""/1', '" "/1').replace(/ link=\S+/, '') ?? blank[0];
  for (let y = 0; y < window[1]; y++) {
    const line = session[shown][y + offset[1]]?.cells ?? [];
    for (let x = 0; x < window[0]; x++) {
      let expected = text(line[x + offset[0]]);
      const head = line[x + offset[0]], cut = head && (
        (x === window[0] - 1 && /\/2 /.test(head)) || (x === 0 && /^""\/0 /.test(head)));
      // A mark that stands alone is a space, too: on the watcher's terminal it would join something.
      if (cut || /^"[^"]+"\/0/.test(expected)) expected = expected.replace(/^".*"\/[02]/, '" "/1');
      const seen = text(drawn.alternate[y]?.cells[x]);
      // xterm.js tells no more of the underline of a linked text.
      const linked = / (link=|underline=0)/.test(head);
      const plain = cell => linked ? cell.replace(/ ?(underline=\d|line=\S+)/g, '').trimEnd() : cell;
      if (!same(plain(expected), plain(seen))) out.push(`row ${y} column ${x}: ${expected} but ${seen}`);
    }
  }
  const [x, y] = session.kept.cursor.map((place, at) => Math.min(place, [one.term.cols, one.term.rows][at] - 1) - offset[at]);
  const inside = x >= 0 && y >= 0 && x < window[0] && y < window[1];
  const expected = inside && !session.kept.hidden ? [x, y].join() : 'hidden';
  const seen = drawn.kept.hidden ? 'hidden' : drawn.kept.cursor.join();
  if (seen !== expected) out.push(`cursor: ${expected} but ${seen}`);
  one.term.dispose();
  two.term.dispose();
  return out.slice(0, 20);
}

function widths() {
  const { term } = open(2, 1);
  const ranges = { 0: [], 2: [] };
  for (let code = 0x20; code < 0x110000; code++) {
    if (code >= 0xd800 && code < 0xe000) continue;
    const list = ranges[term._core.unicodeService.wcwidth(code)];
    if (!list) continue;
    const last = list.at(-1);
    if (last && last[1] === code - 1) last[1] = code; else list.push([code, code]);
  }
  return ranges;
}

const operations = { compare: comparison, view, widths };
for await (const line of createInterface({ input: process.stdin })) {
  const request = JSON.parse(line);
  let answer;
  try {
    answer = await operations[request.op](request);
  } catch (error) {
    answer = [`the oracle failed: ${error.stack}`];
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
