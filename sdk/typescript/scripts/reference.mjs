/**
 * Writes the reference, docs/reference/typescript.md, from the comments in src: what index.ts exports.
 *
 * Usage: npm run reference [-- --check]. With --check nothing is written, and a stale page is an error.
 */

import { mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { dirname } from 'node:path';
import { fileURLToPath } from 'node:url';
import ts from 'typescript';

const SRC = new URL('../src/', import.meta.url);
const PAGE = fileURLToPath(new URL('../../../docs/reference/typescript.md', import.meta.url));
const WIDTH = 100;
const HEAD = `# TypeScript reference

<!-- Written by \`npm run reference\` from the comments in sdk/typescript/src; changes here are lost. -->

All of this is in the package \`@mvm/sdk\`. [The page on the SDKs](../sdk.md) explains how it belongs together.

Options are the last argument of a call, and may be left out like each of them. Every call takes a \`signal\`
([\`Abortable\`](#abortable)).`;

const isType = (node) => ts.isInterfaceDeclaration(node) || ts.isTypeAliasDeclaration(node);
// What is on the page, in this order: of these modules what can be called, or what is only a type.
const CALLED = [
  'sandbox',
  'commands',
  'results',
  'job',
  'files',
  'ports',
  'logs',
  'run',
  'snapshots',
  'receipts',
  'receipt',
];
const GIVEN = ['check', 'options', 'sandbox', 'run', 'commands', 'files', 'ports', 'logs', 'receipts'];
const SECTIONS = [
  ['Calls', CALLED, (node) => !isType(node)],
  ['Declarations', ['declare'], () => true],
  ['Options', GIVEN, isType],
  ['Types', ['operation', 'receipt', 'api'], isType],
  ['Errors', ['errors'], () => true],
];

const modules = new Map();

/** A module's syntax tree. */
function moduleOf(name) {
  if (!modules.has(name)) {
    const text = readFileSync(new URL(`${name}.ts`, SRC), 'utf8');
    modules.set(name, ts.createSourceFile(`${name}.ts`, text, ts.ScriptTarget.Latest, true));
  }
  return modules.get(name);
}

/** What index.ts exports: for each name its module, and its declarations there. */
function exported() {
  const found = [];
  for (const statement of moduleOf('index').statements) {
    if (!ts.isExportDeclaration(statement)) throw new Error(`what is this export? ${statement.getText()}`);
    const module = statement.moduleSpecifier.text.replace(/^\.\/(.*)\.js$/, '$1');
    for (const { name } of statement.exportClause.elements)
      found.push({ name: name.text, module, ...declared(module, name.text) });
  }
  return found;
}

function declared(module, name) {
  const statements = moduleOf(module).statements.flatMap((statement) =>
    ts.isVariableStatement(statement) ? [...statement.declarationList.declarations] : [statement],
  );
  const nodes = statements.filter((node) => node.name?.text === name);
  if (nodes.length === 0) throw new Error(`${module}.ts does not declare ${name}`);
  return { nodes, node: nodes[0] };
}

const all = exported();
const names = new Set(all.map((one) => one.name));

function render() {
  const sections = SECTIONS.map(([title, from, belongs]) => {
    const entries = all.filter(({ module, node }) => from.includes(module) && belongs(node));
    // In the order of the sources, but for what a module is named after: that is its beginning.
    const place = ({ name, module, node }) => [from.indexOf(module), Number(name.toLowerCase() !== module), node.pos];
    return { title, entries: entries.sort((one, other) => compare(place(one), place(other))) };
  });
  const shown = new Set(sections.flatMap(({ entries }) => entries.map((entry) => entry.name)));
  const left = [...names].filter((name) => !shown.has(name));
  if (left.length > 0) throw new Error(`no section of the reference has ${left.join(', ')}`);
  for (const { title, entries } of sections) for (const { name } of [{ name: title }, ...entries]) addAnchor(name);
  const contents = sections.map(
    ({ title, entries }) => `- [${title}](#${anchors.get(title)}): ${entries.map(link).join(', ')}`,
  );
  const body = sections.flatMap(({ title, entries }) => [`## ${title}`, ...entries.flatMap(entryOf)]);
  return `${[HEAD, contents.join('\n'), ...body].join('\n\n')}\n`;
}

/** Which of two lists of numbers comes first. */
function compare(one, other) {
  const at = one.findIndex((number, index) => number !== other[index]);
  return at < 0 ? 0 : one[at] - other[at];
}

/** What each heading is linked to by. Those that differ only in case are numbered, as they are where the page is shown. */
const anchors = new Map();
function addAnchor(heading) {
  const name = heading.toLowerCase();
  const before = [...anchors.keys()].filter((one) => one.toLowerCase() === name).length;
  anchors.set(heading, before > 0 ? `${name}-${before}` : name);
}

const link = ({ name }) => `[\`${name}\`](#${anchors.get(name)})`;
const code = (text) => `\`\`\`ts\n${text}\n\`\`\``;

/** What there is to say about an export, in paragraphs. */
function entryOf({ name, nodes, node }) {
  const title = `### ${name}`;
  if (ts.isFunctionDeclaration(node)) return [title, ...callsOf(name, nodes)];
  if (ts.isTypeAliasDeclaration(node)) return [title, code(bare(node.getText()).replace(/;$/, '')), ...described(node)];
  if (ts.isVariableDeclaration(node))
    return [title, code(`const ${name}`), ...described(node), ...membersOf(name, node.initializer.properties)];
  const head = bare(node.getSourceFile().text.slice(node.getStart(), node.members.pos - 1));
  return [title, code(head), ...described(node), ...membersOf(name, node.members)];
}

/** A declaration without what says how it is exported. */
const bare = (text) =>
  text
    .replace(/^export /, '')
    .replace(/\s+/g, ' ')
    .trim();

/** The members of a class, an interface or an object: a list of those that are read, and then those that are called. */
function membersOf(owner, members) {
  const attributes = [];
  const calls = [];
  const seen = new Set();
  for (const member of members) {
    if (!member.name || isHidden(member)) continue;
    const name = member.name.getText();
    if (!ts.isMethodDeclaration(member)) attributes.push(attributeOf(member));
    else if (!seen.has(name))
      calls.push(
        ...callsOf(
          name,
          members.filter((one) => one.name?.getText() === name),
          owner,
        ),
      );
    seen.add(name);
  }
  return [...(attributes.length > 0 ? [attributes.join('\n')] : []), ...calls];
}

/** Whether a member is not for callers. In a class such ones have no comment, in an interface every member is for them. */
function isHidden(member) {
  const flags = ts.getCombinedModifierFlags(member);
  const isPrivate = ts.isPrivateIdentifier(member.name) || (flags & ts.ModifierFlags.Private) !== 0;
  return isPrivate || (!ts.isPropertySignature(member) && commentsOf(member).length === 0 && !isOverloaded(member));
}

const isOverloaded = (member) => ts.isMethodDeclaration(member) && member.body === undefined;

function attributeOf(member) {
  const optional = member.questionToken !== undefined;
  const type =
    member.type?.getText().replace(/\s+/g, ' ') ?? member.initializer?.getText().replace(/ as const$/, '') ?? '';
  // What is optional may be undefined, and then a function needs no brackets.
  const shown = optional ? type.replace(/ \| undefined$/, '').replace(/^\((\(.*\) => .*)\)$/, '$1') : type;
  const text = described(member).join(' ').replace(/\s+/g, ' ');
  return `- \`${member.name.getText()}${optional ? '?' : ''}: ${shown}\`${text ? `: ${text}` : ''}`;
}

/** How a function or method is called, in all ways, and what is said about it. */
function callsOf(name, nodes, owner = '') {
  const overloads = nodes.filter((node) => node.body === undefined);
  const shown = overloads.length > 0 ? overloads : nodes;
  return [code(shown.map((node) => signature(name, node, owner)).join('\n')), ...nodes.flatMap(described)];
}

function signature(name, node, owner) {
  const isStatic = (ts.getCombinedModifierFlags(node) & ts.ModifierFlags.Static) !== 0;
  // Of a `CommandResult` one speaks as of a `result`.
  const subject = isStatic
    ? owner
    : owner
        .split(/(?=[A-Z])/)
        .at(-1)
        ?.toLowerCase();
  const returns = node.type.getText();
  if (name === '[Symbol.asyncIterator]') {
    return `for await (const one of ${subject}) // ${returns.replace(/^AsyncGenerator<(.*), void, void>$/, '$1')}`;
  }
  const whole = subject ? `${subject}.${name}` : name;
  const parameters = node.parameters.map((one) => one.getText().replace(/\s+/g, ' '));
  const line = `${whole}(${parameters.join(', ')}): ${returns}`;
  return line.length <= WIDTH ? line : `${whole}(\n${parameters.map((one) => `  ${one},\n`).join('')}): ${returns}`;
}

function commentsOf(node) {
  const comments = ts.getJSDocCommentsAndTags(node).filter(ts.isJSDoc);
  return ts.isVariableDeclaration(node) ? comments.slice(-1) : comments;
}

/** What a comment says, in paragraphs, and what is thrown. */
function described(node) {
  return commentsOf(node).flatMap((comment) => {
    const thrown = (comment.tags ?? []).filter(ts.isJSDocThrowsTag).map((tag) => {
      const type = tag.typeExpression?.type.getText();
      return `- ${type ? `${linked(`{@link ${type}}`)}: ` : ''}${textOf(tag)}`;
    });
    const text = textOf(comment);
    return [...(text ? [text] : []), ...(thrown.length > 0 ? ['Throws:', thrown.join('\n')] : [])];
  });
}

const textOf = (node) => linked((ts.getTextOfJSDocComment(node.comment) ?? '').trim());

/** Has `{@link Name}` lead to the name's heading. */
function linked(text) {
  return text.replace(/\{@link\s+([\w.]+)\s*\}/g, (_, target) => {
    const [first = ''] = target.split('.');
    return names.has(first) ? `[\`${target}\`](#${anchors.get(first)})` : `\`${target}\``;
  });
}

const page = render();
const isStale = () => {
  try {
    return readFileSync(PAGE, 'utf8') !== page;
  } catch {
    return true;
  }
};
if (isStale()) {
  if (process.argv.includes('--check')) {
    console.error('docs/reference/typescript.md is stale; run: npm run reference');
    process.exitCode = 1;
  } else {
    mkdirSync(dirname(PAGE), { recursive: true });
    writeFileSync(PAGE, page);
  }
}
