"""Statistics of a partition against their definitions."""

import numpy as np
import pytest

from fjx import data


def test_statistics_by_hand():
    dataset = data.from_clients([np.array([0, 0, 1, 1]), np.array([1, 1]), np.zeros(0, int)])
    found = data.statistics(dataset, dataset.arrays)
    assert found.sizes.tolist() == [4, 2, 0]
    assert found.counts.tolist() == [[2, 2], [0, 2], [0, 0]]
    # All: (1/3, 2/3).  Client 0: (1/2, 1/2), client 1: (0, 1).
    np.testing.assert_allclose(found.label_skew[:2], [1 / 6, 1 / 3])
    np.testing.assert_allclose(found.effective_classes[:2], [2, 1])
    assert np.isnan(found.label_skew[2])
    assert np.isnan(found.effective_classes[2])


def test_labels_must_fit():
    dataset = data.from_clients([np.zeros(3)])
    with pytest.raises(ValueError, match="labels must be a vector of 3"):
        data.statistics(dataset, np.zeros(2))


def test_the_plot_shows_every_count():
    dataset = data.from_clients([np.array([0, 0, 1]), np.array([1, 2])])
    (axes,) = data.plot_partition(dataset, dataset.arrays).axes
    widths = [round(patch.get_width()) for patch in axes.patches]
    assert sum(widths) == 5
    assert len(widths) == 3 * 2


def test_more_labels_than_colours_are_a_heat_map():
    dataset = data.from_clients([np.arange(12), np.zeros(3, int)])
    axes = data.plot_partition(dataset, dataset.arrays).axes[0]
    (image,) = axes.images
    assert image.get_array().tolist() == [[1] * 12, [3] + [0] * 11]
