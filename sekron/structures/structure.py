"""What a factorization looks like: factor shapes, ranks, and which factors share a rank."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import chain
from math import prod
from operator import index

from sekron.records import short
from sekron.structures.families import FAMILIES, Bonds, Shape, block_shape, clipped_ranks, n_ranks
from sekron.structures.flops import cheapest_order, flops
from sekron.structures.geometry import Geometry

LONGEST, MOST_MODES, LARGEST = 16, 8, 2**31
"""Most factors, modes of each, and the largest size, rank or number of groups."""


@dataclass(frozen=True, slots=True)
class Structure:
    """A factorization of a weight: `(family, factor shapes, ranks)`, without any numbers.

    The weight is `Σ A₁ ⊗ A₂ ⊗ … ⊗ A_S`, summed over the ranks; each factor is indexed by the ranks
    of its bonds. In every mode the product of the factor sizes is the size of the weight, so an
    index of the weight is a mixed-radix number: factor 1 holds its most significant digit. A
    sequence of one factor is the dense weight itself.

    The weight of a grouped convolution is one such sequence per group, all of the same shapes and
    ranks, each with factors of its own.

    Args:
        family: One of `FAMILIES`; it decides which factors share which rank.
        shapes: One shape per factor, `(out, in, kernel extents…)`; all of equal length.
        ranks: The size of every bond: one for `cp`, one per factor for `ring`, else one less
            than there are factors.
        groups: Number of groups of the convolution; shapes and ranks are those of one group.

    Raises:
        ValueError: If the family is unknown, the shapes do not match, there are too many or too few
            of anything, or a rank is larger than an exact factorization needs.
        TypeError: If a size or a rank is no whole number.

    Example:
        >>> structure = Structure.parse("chain:64x1x3x1,1x64x1x3@16")
        >>> structure.weight_shape, structure.bonds, structure.n_params
        ((64, 64, 3, 3), ((0,), (0,)), 6144)
        >>> structure.flops((56, 56))
        19267584

    Reference:
        Hameed et al., SeKron, arXiv 2210.06299, eq. 3; Hameed et al., GKPD, arXiv 2109.14710.
    """

    family: str
    shapes: tuple[Shape, ...]
    ranks: tuple[int, ...] = ()
    groups: int = 1

    def __post_init__(self) -> None:
        # Lists and numpy integers are welcome; anything that is no whole number is refused.
        object.__setattr__(self, "shapes", tuple(tuple(map(index, s)) for s in self.shapes))
        object.__setattr__(self, "ranks", tuple(map(index, self.ranks)))
        object.__setattr__(self, "groups", index(self.groups))
        if self.family not in FAMILIES:
            raise ValueError(
                f"family must be one of {', '.join(FAMILIES)}, got {short(self.family)!r}."
            )
        n_modes = max(map(len, self.shapes), default=0)
        if len(self.shapes) > LONGEST or n_modes > MOST_MODES:
            raise ValueError(
                f"a structure must have at most {LONGEST} factors of {MOST_MODES} modes, got "
                f"{len(self.shapes)} of {n_modes}."
            )
        if not self.shapes or len(self.shapes[0]) < 2 or len({len(s) for s in self.shapes}) != 1:
            raise ValueError(
                "factor shapes must have the same number of modes, at least (out, in), "
                f"got {self.shapes}."
            )
        if any(size < 1 for size in chain(*self.shapes, self.ranks, [self.groups])):
            raise ValueError(f"sizes and ranks must be at least 1, got {_text(self)!r}.")
        if any(size > LARGEST for size in chain(*self.shapes, self.ranks, [self.groups])):
            raise ValueError(
                f"sizes and ranks must be at most {LARGEST}, got {short(_text(self))!r}."
            )
        if len(self.shapes) < 2 and self.family not in ("sekron", "chain"):
            raise ValueError(f"family {self.family!r} needs at least 2 factors, got 1.")
        if len(self.ranks) != n_ranks(self.family, len(self.shapes)):
            raise ValueError(
                f"family {self.family!r} with {len(self.shapes)} factors has "
                f"{n_ranks(self.family, len(self.shapes))} ranks, got {len(self.ranks)}."
            )
        limits = clipped_ranks(self.family, self.shapes, self.ranks)
        for position, (rank, limit) in enumerate(zip(self.ranks, limits, strict=True)):
            if rank > limit:
                raise ValueError(
                    f"rank {position + 1} of {_text(self)!r} must be at most {limit}, where the "
                    f"factorization is exact already, got {rank}."
                )

    @classmethod
    def dense(cls, weight_shape: Shape, groups: int = 1) -> Structure:
        """Return the sequence of one factor: the weight as it is."""
        return cls("chain", (block_shape(weight_shape, groups),), (), groups)

    @classmethod
    def parse(cls, text: str) -> Structure:
        """Read `family:shape,shape,…@rank,rank,…`; `str(structure)` gives it back.

        For a grouped convolution, the number of groups and a `*` stand in front.

        Raises:
            ValueError: If the text has another form; the message shows the form.
        """
        family, colon, rest = text.partition(":")
        groups, _, family = family.rpartition("*")
        shapes, _, ranks = rest.partition("@")
        try:
            if not colon:
                raise ValueError
            parsed_shapes = tuple(tuple(map(int, s.split("x"))) for s in shapes.split(","))
            parsed_ranks = tuple(map(int, ranks.split(","))) if ranks else ()
            n_groups = int(groups) if groups else 1
        except ValueError:
            raise ValueError(
                "a structure reads 'family:shape,shape,…@rank,…', for example "
                f"'chain:64x1x3x1,1x64x1x3@16', got {short(text)!r}."
            ) from None
        return cls(family, parsed_shapes, parsed_ranks, n_groups)

    def __str__(self) -> str:
        return _text(self)

    @property
    def length(self) -> int:
        """Number of factors, `S`."""
        return len(self.shapes)

    @property
    def bonds(self) -> Bonds:
        """For each factor, the indices of the ranks that it carries."""
        return FAMILIES[self.family](len(self.shapes))

    @property
    def weight_shape(self) -> Shape:
        """Shape of the weight, `(out, in, kernel extents…)`; `in` of one group."""
        out_channels, *rest = (prod(sizes) for sizes in zip(*self.shapes, strict=True))
        return (self.groups * out_channels, *rest)

    @property
    def one_group(self) -> Structure:
        """The structure of the weight of each group."""
        return replace(self, groups=1)

    @property
    def factor_shapes(self) -> tuple[Shape, ...]:
        """Shapes of the stored factors: the ranks of a factor's bonds, then its own shape.

        Where there are groups, they are the first axis.
        """
        groups = (self.groups,) if self.groups > 1 else ()
        return tuple(
            (*groups, *(self.ranks[b] for b in bonds), *shape)
            for bonds, shape in zip(self.bonds, self.shapes, strict=True)
        )

    @property
    def n_params(self) -> int:
        """Numbers stored, without the bias."""
        return sum(prod(shape) for shape in self.factor_shapes)

    def flops(
        self,
        output_size: tuple[int, ...] = (),
        *,
        stride: int | tuple[int, ...] = 1,
        dilation: int | tuple[int, ...] = 1,
        input_size: tuple[int, ...] | None = None,
    ) -> int:
        """Return the multiply-adds for one image, in the order of factors that a layer runs.

        Args:
            output_size: Spatial size of the layer's output, of a transposed one that of its input;
                for a linear layer the positions that it is applied to, `()` for one.
            stride: Stride of the layer.
            dilation: Dilation of the layer.
            input_size: Spatial size of the layer's input, of a transposed one that of its output;
                default `output_size × stride`.

        Returns:
            The number that fvcore counts on the layer.
        """
        geometry = Geometry.of(
            self.weight_shape, output_size, stride, dilation, input_size, self.groups
        )
        return self.flops_in(self.cheapest_order(geometry.stride), geometry)

    def cheapest_order(self, stride: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Return the order of factors with the fewest multiply-adds, in which a layer runs."""
        return cheapest_order(self.shapes, self.bonds, self.ranks, stride)

    def flops_in(self, order: tuple[int, ...], geometry: Geometry) -> int:
        """Return the multiply-adds for one image in an order of factors."""
        return flops(self.shapes, self.bonds, self.ranks, geometry, order)


def _text(structure: Structure) -> str:
    shapes = ",".join("x".join(map(str, shape)) for shape in structure.shapes)
    ranks = ",".join(map(str, structure.ranks))
    groups = f"{structure.groups}*" if structure.groups > 1 else ""
    return f"{groups}{structure.family}:{shapes}" + (f"@{ranks}" if ranks else "")
