"""What a code becomes, worked out once for each distinct code.

Rows of the store outnumber its codes ten thousand times, so that everything that depends on the
code alone happens here: which rule takes it, ontologies, groups, tokens, names.
"""

from __future__ import annotations

import polars as pl

from wardround.views.timeline.mapping import MAPS, apply_map
from wardround.views.timeline.preset import (
    FIELD,
    Group,
    Map,
    Preset,
    Rule,
    pattern_fields,
    slice_of,
)

#: The column of the store's own code; `code` may be one of a rule's fields.
STORE_CODE = "store_code"

#: One row for each thing that a code becomes, or would have but for a `reason`.
#:
#: - `rule`: number of the rule among the active ones, or, from there on, of the slot of context;
#:   null where no rule takes the code;
#: - `name`, `tokens`: of the event;
#: - `companion`: the code's number is the second value of an event of this name;
#: - `fields`: what both codes of a pair share;
#: - `reason`: why nothing became of it; else null.
ENTRY_SCHEMA = pl.Schema(
    [
        (STORE_CODE, pl.String()),
        ("rule", pl.Int32()),
        ("name", pl.String()),
        ("tokens", pl.List(pl.String)),
        ("companion", pl.Boolean()),
        ("fields", pl.String()),
        ("reason", pl.String()),
    ]
)


def compile_codes(codes: pl.Series, preset: Preset) -> pl.DataFrame:
    """Pass distinct codes through the rules of a preset.

    Returns:
        `ENTRY_SCHEMA`, in the order of `codes`; within a code, in the order of the ontology.
    """
    frame = pl.DataFrame({STORE_CODE: codes}, schema={STORE_CODE: pl.String})
    rules = list(preset.active.values())
    parts, left = [], frame
    for number, rule in enumerate(rules):
        taken, left = _apply(rule, number, left)
        parts.append(taken)
    unclaimed = left.with_columns(reason=pl.lit("no rule"))
    slots = []
    for number, slot in enumerate(preset.context.values(), start=len(rules)):
        slots.append(_apply(slot.rule, number, frame)[0])
    order = frame.with_row_index("order")
    return (
        pl.concat([_blank(), *parts, *slots, unclaimed], how="diagonal")
        .join(order, on=STORE_CODE)
        .sort("order", maintain_order=True)
        .select(list(ENTRY_SCHEMA))
    )


def _apply(rule: Rule, number: int, codes: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Entries of the codes that the rule takes, and the codes that it leaves to others."""
    matched, left = _match(rule, codes)
    if not len(matched):
        return _blank(), left
    if rule.drop:
        return _lost(matched, number, "dropped"), left
    lost = []
    for entry in rule.map:
        matched, unmapped = _map(matched, entry)
        if entry.unmapped == "next":
            left = pl.concat([left, unmapped.select(STORE_CODE)])
        else:
            lost.append(_lost(unmapped, number, f"not in {entry.through}"))
    for field, group in rule.group.items():
        unwanted = matched.select(_fits(pl.col(field), group.drop)).to_series()
        lost.append(_lost(matched.filter(unwanted), number, f"{field} dropped"))
        matched = matched.filter(~unwanted).with_columns(_label(pl.col(field), group).alias(field))
    matched = matched.with_columns(
        pl.col(field).str.to_uppercase().str.replace_all(r"\s+", "_") for field in rule.tidy
    )
    for field, slices in rule.split.items():
        matched = matched.with_columns(
            pl.col(field).str.slice(*slice_of(part)).alias(new) for new, part in slices.items()
        )
    named = [pl.col(name).fill_null("") for name in sorted(pattern_fields(rule.codes[0]))]
    tokens = [_tokens(template, matched) for template in rule.tokens]
    done = matched.with_columns(
        rule=pl.lit(number, pl.Int32),
        tokens=pl.concat_list(tokens),
        fields=pl.concat_str(named, separator="\t") if named else pl.lit(""),
    )
    name = _tokens(rule.name, matched).list.first() if rule.name else done["tokens"].list.join(" ")
    whole = tokens[0].list.len() > 0
    lost.append(_lost(done.filter(~whole), number, "no token"))
    entries = done.with_columns(name=name).filter(whole)
    wanted = [column for column in ENTRY_SCHEMA if column != "reason"]
    return pl.concat([_blank(), entries.select(wanted), *lost], how="diagonal"), left


def _map(matched: pl.DataFrame, entry: Map) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Codes that the ontology has, mapped, and those that it lacks and the rule does not keep."""
    mapping = MAPS[entry.through]
    before = matched[mapping.gives] if mapping.gives in matched.columns else None
    mapped = apply_map(matched, mapping, entry.table)
    missing = mapped[mapping.gives].is_null()
    if entry.unmapped != "keep":
        return mapped.filter(~missing), mapped.filter(missing)
    if before is not None:
        own = matched.select(STORE_CODE, before.alias("before")).unique(STORE_CODE)
        mapped = mapped.join(own, on=STORE_CODE, how="left", maintain_order="left")
        mapped = mapped.with_columns(pl.coalesce(mapping.gives, "before").alias(mapping.gives))
    return mapped, mapped.clear()


def _label(value: pl.Expr, group: Group) -> pl.Expr:
    label = value if group.other is None else pl.lit(group.other)
    for name, members in reversed(group.into.items()):
        label = pl.when(_fits(value, members)).then(pl.lit(name)).otherwise(label)
    return label


def _match(rule: Rule, codes: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Codes that the rule's patterns fit, with a column for each field; and the others."""
    names = pattern_fields(rule.codes[0])
    parts, left = [], codes
    for pattern, companion in [*((p, False) for p in rule.codes), *((p, True) for p in rule.pair)]:
        fits = left[STORE_CODE].str.contains(pattern)
        found = left.filter(fits).with_columns(companion=pl.lit(companion))
        if names:
            found = found.with_columns(
                pl.col(STORE_CODE).str.extract_groups(pattern).struct.field(*names)
            )
        parts.append(found)
        left = left.filter(~fits)
    return pl.concat(parts), left


def _tokens(template: str, fields: pl.DataFrame) -> pl.Series:
    """A list for each row: the template filled in, once for each member of a list field.

    A row of which a field is empty has an empty list.
    """
    lists = [
        name
        for group in FIELD.findall(template)
        for name in group.split("|")
        if fields.schema[name] == pl.List(pl.String)
    ]
    rows = fields.with_row_index("at")
    if lists:
        rows = rows.explode(lists[0])
    pieces: list[pl.Expr] = []
    end = 0
    for match in FIELD.finditer(template):
        pieces.append(pl.lit(template[end : match.start()]))
        pieces.append(pl.coalesce(_filled(name) for name in match[1].split("|")))
        end = match.end()
    pieces.append(pl.lit(template[end:]))
    filled = rows.select("at", text=pl.concat_str(pieces)).group_by("at", maintain_order=True)
    return filled.agg(pl.col("text").drop_nulls())["text"]


def _filled(name: str) -> pl.Expr:
    return pl.when(pl.col(name) != "").then(pl.col(name))


def _fits(value: pl.Expr, members: list[str]) -> pl.Expr:
    """Whether a value is one of `members`, whose `*` stands for anything."""
    exact = [member for member in members if "*" not in member]
    result = value.is_in(exact) if exact else pl.lit(False)
    for member in members:
        if "*" in member:
            head, _, tail = member.partition("*")
            result |= value.str.starts_with(head) & value.str.ends_with(tail)
    return result.fill_null(False)


def _lost(codes: pl.DataFrame, number: int, reason: str) -> pl.DataFrame:
    return codes.select(STORE_CODE).with_columns(
        rule=pl.lit(number, pl.Int32), reason=pl.lit(reason)
    )


def _blank() -> pl.DataFrame:
    return pl.DataFrame(schema=ENTRY_SCHEMA)
