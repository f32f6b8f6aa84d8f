"""Maps in two dimensions: principal components, neighbours, names without overlap."""

from __future__ import annotations

import xml.etree.ElementTree as ET

import numpy as np
import pytest
from sklearn.decomposition import PCA

from fourfold.core.errors import UserError
from fourfold.look.projection import components, neighbours, project, projection_map


def vectors(count: int = 40, size: int = 7) -> np.ndarray:
    return np.random.default_rng(0).normal(size=(count, size)) * np.arange(1, size + 1)


def test_components_are_scikit_learns() -> None:
    x = vectors()
    points, share = components(x)
    oracle = PCA(2, svd_solver="full").fit(x)
    theirs = oracle.transform(x)
    np.testing.assert_allclose(np.abs(points), np.abs(theirs), atol=1e-9)
    np.testing.assert_allclose(share, oracle.explained_variance_ratio_, atol=1e-12)
    np.testing.assert_allclose(components(x + 5.0)[0], points, atol=1e-9)


def test_flat_points_have_a_map_too() -> None:
    line = np.arange(4.0)[:, None]
    points, share = components(line)
    assert np.allclose(points[:, 1], 0) and share.tolist() == [1.0, 0.0]
    assert components(np.ones((3, 2)))[1].tolist() == [0.0, 0.0]


def test_neighbours_are_the_nearest_by_cosine() -> None:
    x = vectors(12, 4)
    order, cosines = neighbours(x, 3)
    for i in range(len(x)):
        every = [
            (x[i] @ x[j] / np.linalg.norm(x[i]) / np.linalg.norm(x[j]), j)
            for j in range(12)
            if j != i
        ]
        best = sorted(every, reverse=True)[:3]
        assert order[i].tolist() == [j for _, j in best]
        np.testing.assert_allclose(cosines[i], [c for c, _ in best])
    assert neighbours(np.zeros((3, 2)), 5)[1].tolist() == [[0.0, 0.0]] * 3


def test_tsne_keeps_groups_together() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(size=(20, 5)), rng.normal(size=(20, 5)) + 30])
    points = project(x, "tsne", seed=1)
    assert np.array_equal(points, project(x, "tsne", seed=1))
    middles = points[:20].mean(axis=0), points[20:].mean(axis=0)
    inside = max(
        np.linalg.norm(points[:20] - middles[0], axis=1).max(),
        np.linalg.norm(points[20:] - middles[1], axis=1).max(),
    )
    assert np.linalg.norm(middles[0] - middles[1]) > inside


def test_hovering_names_the_neighbours() -> None:
    x = np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [-1.0, 0.0]])
    picture = projection_map(x, ["猫", "狗", "tree", "<b>"], "Words", colors=[0, 0, 1, 2])
    root = ET.fromstring(picture.svg)
    titles = [t.text for t in root.iter("{http://www.w3.org/2000/svg}title")]
    assert titles[0] is not None and titles[0].startswith("猫: nearest 狗 1.00")
    assert "hold" in picture.caption and picture.png.startswith(b"\x89PNG")


def test_names_do_not_cover_one_another() -> None:
    x = np.concatenate([np.full((30, 2), 0.5), np.eye(2), -np.eye(2)])
    picture = projection_map(x, [f"token{i}" for i in range(34)], "Words")
    written = [t.text for t in ET.fromstring(picture.svg).iter("{http://www.w3.org/2000/svg}text")]
    assert "token0" in written and "token1" not in written


def test_what_cannot_be_mapped() -> None:
    with pytest.raises(UserError, match="at least 3 points, got 2"):
        project(np.ones((2, 2)))
    with pytest.raises(UserError, match="finite"):
        project(np.array([[1.0, np.nan]] * 3))
    with pytest.raises(ValueError, match="expects 3 names"):
        projection_map(np.ones((3, 2)), ["a"], "x")
