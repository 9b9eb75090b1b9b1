"""Progress of fits side by side: separated, and joined again."""

import torch


def part_of(progress, part):
    """Return the progress of some of the members, as copies: views would be pickled whole."""
    return progress | {
        "members": {name: values[part] for name, values in progress["members"].items()},
        "vectors": {name: value[part].clone() for name, value in progress["vectors"].items()},
        "tensors": {
            name: [value[:, part].clone() for value in values]
            for name, values in progress["tensors"].items()
        },
    }


def joined(parts):
    """Return the progress of fits that paused at the same epoch as one."""
    first = parts[0]
    return first | {
        "members": {
            name: [value for part in parts for value in part["members"][name]]
            for name in first["members"]
        },
        "vectors": {
            name: torch.cat([part["vectors"][name] for part in parts]) for name in first["vectors"]
        },
        "tensors": {
            name: [torch.cat(values, dim=1) for values in zip(*tensors, strict=True)]
            for name, tensors in (
                (name, [part["tensors"][name] for part in parts]) for name in first["tensors"]
            )
        },
    }
