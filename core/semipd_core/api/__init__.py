"""The objects that users write: SemiPDService, SemiPDClass, SemiPDPartition, group `semipd.io/v1alpha1`.

`codec` is the way in and out; everything behind it holds values that are already checked.
"""
