"""The tree shares what begins alike and shows each node its own sequence, no more and no less."""

from itertools import pairwise

from textanchor.evaluation.scoring.token_tree import ImageToken, TokenTree, visible

SEQUENCES = [[1, 2, 3], [1, 2, 4, 5], [1, 9], [1, 2, 3], [2, 2]]


def filled() -> tuple[TokenTree, list[list[int]]]:
    tree = TokenTree()
    return tree, [tree.add(sequence) for sequence in SEQUENCES]


def test_shared_beginnings_are_one() -> None:
    tree, nodes = filled()
    assert len(tree) == 8, "1 2 3 | 4 5 | 9 | 2 2"
    assert nodes[0] == nodes[3]
    assert nodes[0][:2] == nodes[1][:2]
    assert nodes[4][0] != nodes[0][1], "the same token elsewhere is another node"


def test_nodes_spell_their_sequence() -> None:
    tree, nodes = filled()
    for sequence, path in zip(SEQUENCES, nodes, strict=True):
        assert [tree.tokens[node] for node in path] == sequence
        assert [tree.depths[node] for node in path] == list(range(len(sequence)))
        assert tree.parents[path[0]] == -1
        assert all(tree.parents[child] == parent for parent, child in pairwise(path))


def test_a_node_sees_itself_and_its_ancestors() -> None:
    tree, nodes = filled()
    short = TokenTree()
    short.add([7, 8])
    mask_BLL = visible([tree, short])
    assert mask_BLL.shape == (2, 8, 8)
    for path in nodes:
        for i, node in enumerate(path):
            assert set(mask_BLL[0, node].nonzero().flatten().tolist()) == set(path[: i + 1])
    assert mask_BLL[1, 5].nonzero().flatten().tolist() == [5], "padding sees itself alone, so that no row is empty"


def test_tokens_of_two_images_are_told_apart() -> None:
    tree = TokenTree()
    first = tree.add([1, ImageToken("a", 0), ImageToken("a", 1), 5])
    second = tree.add([1, ImageToken("b", 0), ImageToken("b", 1), 5])
    assert first[0] == second[0]
    assert not set(first[1:]) & set(second[1:])
