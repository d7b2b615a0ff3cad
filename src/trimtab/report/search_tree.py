"""A traced search as a tree for the terminal: what each candidate added, its value, and whether it was kept."""

import rich.text
import rich.tree

from trimtab.errors import one_line
from trimtab.records import SET_ASIDE
from trimtab.search.trace import Node

ENDS: dict[str, str] = {
    "eos": "ended",
    "length": "cut at its length",
    "stop": "stopped",
    **dict.fromkeys(SET_ASIDE, "set aside"),
}


def ending(node: Node) -> str:
    """How a candidate ended, in a word or two; empty where the search went on from it."""
    return "dropped" if not node.kept else "" if node.finish is None else ENDS[node.finish]


def search_tree(root: Node) -> rich.tree.Tree:
    """The prompt, and below each text what followed it; dropped candidates are dim. No text is read as markup.

    >>> root = Node("I really", children=[Node(" liked it", 1.5, "eos"), Node(" left", -2.0, None, kept=False)])
    >>> len(search_tree(root).children)
    2
    """
    tree = rich.tree.Tree(rich.text.Text(one_line(root.text), style="bold"))
    _grow(tree, root)
    return tree


def _grow(tree: rich.tree.Tree, node: Node) -> None:
    for child in node.children:
        label = rich.text.Text(style="" if child.kept else "dim")
        label.append("     –" if child.value is None else f"{child.value:6.2f}", style="bold" if child.kept else "")
        label.append(f"  {one_line(child.text) or '(no text)'}")
        label.append(f"  {ending(child)}" if ending(child) else "", style="italic")
        _grow(tree.add(label), child)
