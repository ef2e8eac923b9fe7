"""Gold answers that the rule cannot read are found before training, not at step 412. A reader may skip this
file."""
from scoring.answers import unreadable_golds
from machinery.files import Refused, say


def report_unreadable(source, records, limit_bad, verifier):
    """Say which records' gold answers the rule cannot read. More than a share of limit_bad is refused, unless
    there is a verifier that can read them."""
    unreadable = unreadable_golds([r.answer for r in records], [r.options or None for r in records])
    if not unreadable:
        return
    listed = "; ".join(f"row {records[i].id}: {why}" for i, why in list(unreadable.items())[:5])
    if len(unreadable) > limit_bad * len(records) and not verifier:
        raise Refused(f"{source}: the rule cannot read the gold answer of {len(unreadable)} of "
                      f"{len(records)} rows ({listed}). Mend them, give a --verifier, or raise --limit_bad.")
    say(f"{source}: the rule cannot read {len(unreadable)} gold answers ({listed})")
