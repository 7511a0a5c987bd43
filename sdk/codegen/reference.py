"""The reference of the Python SDK, as a page: what `mvm.__all__` names, out of the sources' docstrings."""

import ast
import inspect
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

HEAD = """\
# Python reference

<!-- Written by `make sdk-types` from the docstrings in sdk/python/src/mvm; changes here are lost. -->

All of this is in the package `mvm`. [The page on the SDKs](../sdk.md) explains how it belongs together.

This is the synchronous half. Every class of the first section has an asynchronous twin whose name begins with `Async`, and
every function and object one that begins with `async_`: `AsyncSandbox`, `async_run`. Its methods have the same names and
parameters and are awaited; what is iterated over here is iterated over with `async for` there, and `with` is `async with`.
"""
# What is on the page, in this order, by the modules that define it.
SECTIONS = {
    "Calls": ("_sync/sandbox", "_sync/commands", "_sync/files", "_sync/ports", "_sync/logs", "_sync/machine"),
    "Declarations": ("_declare",),
    "Types": ("_core/check", "_core/receipts", "_core/sandboxes", "_api"),
    "Errors": ("_errors",),
}
WIDTH = 100
Read = Callable[[Path], str]
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass
class Entry:
    """Something with a name: where it is defined, and as what."""

    name: str
    module: Path
    node: ast.ClassDef | Function | ast.Assign


class Package:
    """The package's modules, parsed."""

    def __init__(self, root: Path, read: Read) -> None:
        self.root, self._read = root, read
        self._trees: dict[Path, ast.Module] = {}
        self._init = root / "__init__.py"
        listed = self.find(self._init, "__all__").node
        assert isinstance(listed, ast.Assign)
        self.exported = [self.find(self._init, name) for name in ast.literal_eval(listed.value)]

    def body(self, module: Path) -> list[ast.stmt]:
        if module not in self._trees:
            self._trees[module] = ast.parse(self._read(module))
        return self._trees[module].body

    def find(self, module: Path, name: str) -> Entry:
        """What a name means in a module; of `results.ResultBase` the class in the module `results`."""
        first, _, rest = name.partition(".")
        for node in self.body(module):
            if _defines(node, first):
                return Entry(name, module, node)
            if isinstance(node, ast.ImportFrom) and node.level and first in {one.asname or one.name for one in node.names}:
                folder = module.parents[node.level - 1].joinpath(*(node.module or "").split("."))
                return self.find(folder / f"{first}.py", rest) if rest else self.find(folder.with_suffix(".py"), first)
        raise KeyError(f"{module} does not say what {name} is")

    def objects(self) -> list[Entry]:
        """What is exported and is an instance of a class of the package."""
        return [one for one in self.exported if one.module == self._init]

    def sections(self) -> dict[str, list[Entry]]:
        """What is exported and is no object and no twin."""
        left = [one for one in self.exported if one.module != self._init and not re.match("Async|async_", one.name)]
        found: dict[str, list[Entry]] = {}
        for title, modules in SECTIONS.items():
            of = [self.root / f"{module}.py" for module in modules]
            here = [one for one in left if one.module in of]

            # In the order of the sources, but for what a module is named after: that is its beginning.
            def place(one: Entry) -> tuple[int, bool, int]:
                return of.index(one.module), one.name.lower() != one.module.stem, one.node.lineno

            found[title] = sorted(here, key=place)
            left = [one for one in left if one not in here]
        if left:
            raise KeyError(f"no section of the reference has {', '.join(one.name for one in left)}")
        return found

    def lineage(self, entry: Entry) -> Iterator[Entry]:
        """A class, after those that it builds on and that are not exported: their members are its own."""
        exported = {(one.module, one.name) for one in self.exported}
        for base in entry.node.bases if isinstance(entry.node, ast.ClassDef) else ():
            if not self._is_ours(entry.module, ast.unparse(base)):
                continue
            found = self.find(entry.module, ast.unparse(base))
            if (found.module, found.name) not in exported:
                yield from self.lineage(found)
        yield entry

    def plain(self, module: Path, node: ast.AST) -> str:
        """An expression of a module, in which names that are not exported are replaced by what they mean."""
        if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
            # Types that differ in the asynchronous half may be the same here: each is shown once.
            return " | ".join(dict.fromkeys(self.plain(module, one) for one in _operands(node)))
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            return json.dumps(node.value)
        text = ast.unparse(node)
        for name in set(re.findall(r"\b(?:[a-z_]+\.)?[A-Z]\w+", text)) - {one.name for one in self.exported}:
            if self._is_ours(module, name) and isinstance(meant := self.find(module, name).node, ast.Assign):
                text = re.sub(rf"\b{re.escape(name)}\b", self.plain(module, meant.value), text)
        return text

    def _is_ours(self, module: Path, name: str) -> bool:
        try:
            self.find(module, name)
        except (KeyError, OSError):
            return False
        return True


def render(root: Path, read: Read) -> str:
    """The page."""
    page, package = [HEAD.rstrip()], Package(root, read)
    sections = package.sections()
    anchors = _anchors([name for title, entries in sections.items() for name in (title, *(one.name for one in entries))])
    contents = [f"- [{title}](#{anchors[title]}): " + ", ".join(f"[`{one.name}`](#{anchors[one.name]})" for one in entries)
                for title, entries in sections.items()]
    page.append("\n".join(contents))
    for title, entries in sections.items():
        page += [f"## {title}", *(part for one in entries for part in (f"### {one.name}", *_entry(package, one)))]
    return "\n\n".join(page) + "\n"


def _anchors(headings: list[str]) -> dict[str, str]:
    """What each heading of a page is linked to by. Those that differ only in case are numbered, as they are where it is shown."""
    seen: dict[str, int] = {}
    anchors = {}
    for heading in headings:
        name = heading.lower()
        anchors[heading] = f"{name}-{seen[name]}" if name in seen else name
        seen[name] = seen.get(name, 0) + 1
    return anchors


def _entry(package: Package, entry: Entry) -> list[str]:
    """What there is to say about something, in paragraphs."""
    node = entry.node
    if isinstance(node, ast.Assign):
        body = package.body(entry.module)
        return [_code(ast.unparse(node)), _text_after(body, body.index(node))]
    if not isinstance(node, ast.ClassDef):
        return [_code(_signature(package, entry.module, node, "")), *_described(node)]
    attributes: list[str] = []
    methods: list[str] = []
    for cls in package.lineage(entry):
        assert isinstance(cls.node, ast.ClassDef)
        for at, member in enumerate(cls.node.body):
            if isinstance(member, Function):
                if _is_shown(member):
                    methods += [_code(_signature(package, cls.module, member, entry.name)), *_described(member)]
                else:
                    attributes += _attributes_of(member)
            elif attribute := _attribute(member, _text_after(cls.node.body, at)):
                attributes.append(attribute)
    instances = [f"There is one, `mvm.{one.name}`." for one in package.objects() if _class_of(one) == entry.name]
    return [_code(_head(node)), *_described(node), *instances, *(["\n".join(attributes)] if attributes else []), *methods]


def _class_of(entry: Entry) -> str:
    value = entry.node.value if isinstance(entry.node, ast.Assign) else None
    return ast.unparse(value.func) if isinstance(value, ast.Call) else ""


def _head(node: ast.ClassDef) -> str:
    """How a class is declared, without what only its implementation needs."""
    bases = [name for base in node.bases if not re.search(r"Base$|^Record$", name := ast.unparse(base))]
    frozen = "@dataclass(frozen=True)\n" if any("dataclass" in ast.unparse(one) for one in node.decorator_list) else ""
    return f"{frozen}class {node.name}{'(' + ', '.join(bases) + ')' if bases else ''}"


def _is_shown(node: Function) -> bool:
    """Whether a method is one that callers call."""
    decorators = {ast.unparse(one) for one in node.decorator_list}
    named = not node.name.startswith("_") or (node.name == "__iter__" and ast.get_docstring(node))
    return bool(named) and not decorators & {"overload", "property"}


def _attribute(node: ast.stmt, text: str) -> str:
    """A line about a field, or a value of an enumeration; empty if it is neither."""
    if isinstance(node, ast.AnnAssign):
        name, kind = ast.unparse(node.target), ast.unparse(node.annotation)
        # The classes of errors have constants that are there to be read; those of types are for their decoders.
        shown = not name.startswith("_") and name != "TAG"
        return _line(name, re.sub(r"^ClassVar\[(.*)\]$", r"\1", kind), text) if shown else ""
    if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant):
        return f"- `{ast.unparse(node.targets[0])} = {json.dumps(node.value.value)}`"
    return ""


def _attributes_of(node: Function) -> Iterator[str]:
    """A line about a property, or about each attribute that a constructor sets and describes."""
    if any(ast.unparse(one) == "property" for one in node.decorator_list) and not node.name.startswith("_"):
        yield _line(node.name, ast.unparse(node.returns) if node.returns else "", ast.get_docstring(node) or "")
    if node.name != "__init__":
        return
    parameters = {one.arg: ast.unparse(one.annotation) for one in node.args.args if one.annotation}
    for at, one in enumerate(node.body):
        if isinstance(one, (ast.Assign, ast.AnnAssign)) and (text := _text_after(node.body, at)):
            target, value = one.targets[0] if isinstance(one, ast.Assign) else one.target, one.value
            made = ast.unparse(value.func) if isinstance(value, ast.Call) else parameters.get(ast.unparse(value or target), "")
            kind = ast.unparse(one.annotation) if isinstance(one, ast.AnnAssign) else made
            yield _line(ast.unparse(target).removeprefix("self."), kind, text)


def _line(name: str, kind: str, text: str) -> str:
    return f"- `{name}: {kind}`" + (f": {' '.join(text.split())}" if text else "")


def _signature(package: Package, module: Path, node: Function, cls: str) -> str:
    """How a function is called, or a class's method; on one line if there is room."""
    static = {ast.unparse(one) for one in node.decorator_list} & {"classmethod", "staticmethod"}
    # Of a `CommandResult` one speaks as of a `result`.
    owner = cls if static else re.split("(?=[A-Z])", cls)[-1].lower()
    returns = ast.unparse(node.returns).replace("builtins.", "") if node.returns else "None"
    if node.name == "__iter__":
        return f"for one in {owner}:  # {returns.removeprefix('Iterator[').removesuffix(']')}"
    spec = node.args
    defaults = [None] * (len(spec.args) - len(spec.defaults)) + list(spec.defaults)
    pairs = [*zip(spec.args, defaults), *zip(spec.kwonlyargs, spec.kw_defaults)]
    shown = [_parameter(package, module, *pair) for pair in pairs if pair[0].arg not in ("self", "cls")]
    if spec.kwonlyargs:
        shown.insert(len(shown) - len(spec.kwonlyargs), "*")
    name = f"{owner}.{node.name}" if owner else node.name
    line = f"{name}({', '.join(shown)}) -> {returns}"
    return line if len(line) <= WIDTH else f"{name}(\n" + "".join(f"    {one},\n" for one in shown) + f") -> {returns}"


def _parameter(package: Package, module: Path, one: ast.arg, default: ast.expr | None) -> str:
    kind = f": {package.plain(module, one.annotation)}" if one.annotation else ""
    return f"{one.arg}{kind}" + (f" = {package.plain(module, default)}" if default else "")


def _described(node: ast.ClassDef | Function) -> Iterator[str]:
    """A docstring as paragraphs and lists."""
    for paragraph in re.split(r"\n\s*\n", ast.get_docstring(node) or ""):
        title, _, rest = paragraph.partition("\n")
        if title not in ("Args:", "Raises:"):
            yield paragraph
            continue
        items = (" ".join(item.split()).partition(": ") for item in re.split(r"\n(?=    \S)", f"\n{rest}")[1:])
        if title == "Raises:":
            yield title
        yield "\n".join(f"- `{name}`: {text}" for name, _, text in items)


def _operands(node: ast.expr) -> Iterator[ast.expr]:
    """The types that are joined by `|`."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitOr):
        yield from (*_operands(node.left), *_operands(node.right))
    else:
        yield node


def _defines(node: ast.stmt, name: str) -> bool:
    """Whether a statement gives a name its meaning; declarations of overloads do not."""
    if isinstance(node, Function):
        return node.name == name and "overload" not in {ast.unparse(one) for one in node.decorator_list}
    if isinstance(node, ast.Assign):
        return ast.unparse(node.targets[0]) == name
    return isinstance(node, ast.ClassDef) and node.name == name


def _text_after(body: list[ast.stmt], at: int) -> str:
    """The text that stands as a statement of its own behind another one."""
    after = body[at + 1] if at + 1 < len(body) else None
    value = after.value if isinstance(after, ast.Expr) else None
    return inspect.cleandoc(value.value) if isinstance(value, ast.Constant) and isinstance(value.value, str) else ""


def _code(text: str) -> str:
    return f"```python\n{text}\n```"
