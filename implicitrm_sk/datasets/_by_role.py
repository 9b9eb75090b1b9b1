"""The columns of a table that have a role, whatever their names and whatever the table."""

from collections.abc import Iterable, Mapping
from os import PathLike

from ..exceptions import ImplicitRMError
from ._data import FeedbackData
from ._records import Records, check_names


class ByRole:
    """The columns of a table by their roles, as pandas Series.

    Parameters
    ----------
    source : FeedbackData, path, table or list of dict
    names : sequence of str
        The roles, which are the names of the columns unless `renamed` gives another one.
    argument : str
        Name of the table, for the messages.
    pandas : module
    renamed : dict of str, default=None

    Attributes
    ----------
    columns : dict of Series
    called : dict of str
        The column of each role, for the messages; data that were read know theirs.
    seen : list of str
        The columns of the source.
    n : int
        Number of rows.
    """

    def __init__(self, source, names, argument, pandas, renamed=None):
        self.argument, self.pandas = argument, pandas
        self._place = None
        self.data = source if isinstance(source, FeedbackData) else None
        renamed = self.called = _checked(renamed, names)
        if self.data is not None:
            self.called = _read_from(source)
            found = {name: source.get(name) for name in names}
            if found.get("prompt_id") is None and "prompt_id" in names:
                found["prompt_id"] = source.groups
            self.columns = {k: pandas.Series(v) for k, v in found.items() if v is not None}
            self.seen = list(self.columns)
        else:
            try:
                self.columns = self._of_table(source, {n: renamed.get(n, n) for n in names})
            except UnicodeEncodeError as error:  # half of an emoji, which Arrow does not hold
                raise ImplicitRMError(
                    f"{argument} holds text that is not Unicode ({error.object[:40]!a}); expected "
                    "text with whole characters. Correct it, or leave this row out."
                ) from None
        if not self.seen:
            raise ImplicitRMError(f"{argument} has no rows. Check the export.")
        for name, column in renamed.items():
            if name not in self.columns:
                raise ImplicitRMError(
                    f"{argument} has no column {column!r}, which was named for {name!r}. It "
                    f"has {', '.join(map(str, self.seen))}. Correct the name."
                )
        lengths = {len(column) for column in self.columns.values()}
        if not self.columns or len(lengths) != 1:
            raise ImplicitRMError(
                f"{argument} has none of the columns {', '.join(names)}, which are read by these "
                f"names. {'Name them by columns=.' if argument != 'responses' else 'Rename them.'}"
            )
        (self.n,) = lengths
        if not self.n and argument == "responses":
            raise ImplicitRMError(
                "responses has no rows; expected one for each response shown. Check the export."
            )

    def _of_table(self, source, names):
        import narwhals

        from .._tables import opened

        self.seen = []
        if not hasattr(source, "collect"):  # a lazy table is read once its columns are selected
            source = opened(source)
        if isinstance(source, str | PathLike):
            roots = {part for name in names.values() for part in (name, name.partition(".")[0])}
            records = Records(source)
            read = list(records.read(lambda columns: self._see(columns, roots)))
            source = [self._of_record(row, names) for _, row in read]
            numbers = [number for number, _ in read]
            self._place = lambda row: records.place(numbers[row])
            names = {name: name for name in names}
        elif isinstance(source, Iterable) and not hasattr(source, "columns"):
            if isinstance(source, str | bytes | Mapping):
                raise self._no_table(source)
            source = list(source)
            for row, record in enumerate(source):
                if not isinstance(record, Mapping):
                    raise TypeError(
                        f"row {row} of {self.argument} is a {type(record).__name__}; expected "
                        "a dict. Convert it."
                    )
            source = [self._of_record(record, names) for record in source]
            names = {name: name for name in names}
        if isinstance(source, list):
            source = self.pandas.DataFrame(source, dtype=object)
        else:
            check_names(source, self.argument)
        try:
            table = narwhals.from_native(source)
        except TypeError:
            raise self._no_table(source) from None
        there = table.collect_schema().names()
        self.seen = self.seen or there
        names = {name: column for name, column in names.items() if column in there}
        table = table.select(list(dict.fromkeys(names.values())))
        table = table.collect() if isinstance(table, narwhals.LazyFrame) else table
        return {name: self._series(table.get_column(column)) for name, column in names.items()}

    def _series(self, column):
        """Return a column of narwhals in pandas, with integers unchanged where some are missing."""
        if column.dtype.is_integer() and not column.implementation.is_pandas():
            missing = column.is_null().to_numpy()
            if missing.any():
                values = column.fill_null(0).to_numpy()
                return self.pandas.Series(self.pandas.arrays.IntegerArray(values, missing))
        column = column.to_pandas()
        if column.dtype == object and column.notna().all():
            return column.infer_objects()
        return column

    def _no_table(self, source):
        return TypeError(
            f"{self.argument} is a {type(source).__name__}; expected a table (pandas, polars, "
            "Arrow), a list of dicts, or the path of a file."
        )

    def _see(self, columns, roots):
        self.seen += [column for column in columns if column not in self.seen]
        return [column for column in columns if column in roots]

    def _of_record(self, record, names):
        """Return the values of a record by role; roles without a column are left out."""
        self.seen += [column for column in record if column not in self.seen]
        found = {}
        for name, column in names.items():
            value, path = record, [column] if column in record else column.split(".")
            for step in path:
                if not isinstance(value, Mapping) or step not in value:
                    break
                value = value[step]
            else:
                found[name] = value
        return found

    def __contains__(self, name):
        return name in self.columns

    def place(self, row):
        """Return the place of a row, in words."""
        if self._place is not None:
            return self._place(row)
        if self.data is not None and self.data.get("row") is not None:
            row = self.data.row[row]  # of the source
        return f"row {row} of {self.argument}"

    def name(self, role):
        """Return the name of the column of a role."""
        return self.called.get(role, role)

    def of(self, role):
        """Return the column of a role, in words."""
        return f"column {self.name(role)!r}"

    def listing(self):
        """Return the columns that have a role, in words."""
        return ", ".join(map(self.name, self.columns))

    def need(self, name, purpose):
        """Return a column, or raise an error that names its purpose."""
        if name not in self.columns:
            raise ImplicitRMError(
                f"{self.argument} lacks the column {name!r}, which {purpose} needs. It has "
                f"{self.listing()}. Add the column, or rename the one that holds it."
            )
        return self.columns[name]

    def check_complete(self, name, purpose):
        missing = self.columns[name].isna().to_numpy()
        if missing.any():
            purpose = purpose[0].upper() + purpose[1:]
            rows = "row" if missing.sum() == 1 else "rows"
            raise ImplicitRMError(
                f"{self.argument} lacks {self.name(name)!r} in {missing.sum():,} {rows}; the first "
                f"is {self.place(missing.argmax())}. {purpose} needs one in each row. Add it, or "
                "leave these rows out."
            )


def _read_from(data):
    """Return the columns of the roles of data that were read, as their summary has them."""
    columns = getattr(data.get("summary"), "columns", {})
    return {role: column.removesuffix(" (guessed)") for role, column in columns.items()}


def _checked(renamed, names):
    """Return the given names of columns by role, or raise if a role does not exist."""
    renamed = {} if renamed is None else renamed
    if not isinstance(renamed, Mapping) or not all(isinstance(c, str) for c in renamed.values()):
        raise TypeError(
            f"columns is {renamed!r}; expected a dict from {', '.join(names)} to names of columns "
            "of events. Pass a dict."
        )
    unknown = [name for name in renamed if name not in names]
    if unknown:
        raise ImplicitRMError(
            f"columns names {unknown[0]!r}, which events do not have; expected one of "
            f"{', '.join(names)}. Correct it."
        )
    return dict(renamed)
