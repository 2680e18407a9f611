"""Share of a process in a sample's views: all of them, or those of its place in a context group.

Letters: n views of a sample: inputs are the first of them, targets the last.
"""

from dataclasses import dataclass

from config.recipe import TrainingRecipe
from data.sampler import views_of_sample
from model.parallel.context import ContextGroup, own_inputs, own_targets


@dataclass(frozen=True)
class ViewShare:
    """Views that one process computes of every sample.

    Attributes:
        inputs: which of the sample's inputs.
        targets: which of the sample's targets.
        views: positions of both among the n views, or None for all views.
        weight: factor of this process's loss (a mean over its own targets), so that the mean over processes is the mean over all
            targets, however unevenly they are split.
    """

    inputs: range
    targets: range
    views: list[int] | None
    weight: float

    def count_inputs(self, drawn: int) -> int:
        """Return the number of this process's inputs among the first `drawn` of a sample."""
        return sum(i < drawn for i in self.inputs)


def share_views(recipe: TrainingRecipe, context: ContextGroup) -> ViewShare:
    """Return the views that the process of this rank in a context group computes."""
    inputs = own_inputs(recipe.num_input_views, context.rank, context.size)
    targets = own_targets(recipe.num_target_views, context.rank, context.size)
    first_target = views_of_sample(recipe) - recipe.num_target_views
    views = None if context.size == 1 else [*inputs, *(first_target + i for i in targets)]
    return ViewShare(inputs, targets, views, context.size * len(targets) / recipe.num_target_views)
