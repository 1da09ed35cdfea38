"""Append-only tables: the database itself refuses to change or delete their rows, whoever asks. Used by migrations.

Only rows are guarded: TRUNCATE, by which tests empty the tables, goes through.
"""

from django.db.migrations import RunSQL

DEFINE = RunSQL(
    sql="""
CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND TG_NARGS > 0 AND to_jsonb(OLD) - TG_ARGV = to_jsonb(NEW) - TG_ARGV THEN
        RETURN NEW;
    END IF;
    RAISE EXCEPTION '% is append-only: % of a row is refused', TG_TABLE_NAME, TG_OP
        USING ERRCODE = 'restrict_violation';
END
$$;
""",
    reverse_sql="DROP FUNCTION refuse_change();",
)
"""The trigger's function; the columns that may change after all are its arguments."""


def guard(table: str, *, but: str = "") -> RunSQL:
    """Make ``table`` append-only; the column ``but`` may change all the same."""
    argument = f"'{but}'" if but else ""
    return RunSQL(
        sql=f"""
CREATE TRIGGER append_only BEFORE UPDATE OR DELETE ON {table}
FOR EACH ROW EXECUTE FUNCTION refuse_change({argument});
""",
        reverse_sql=f"DROP TRIGGER append_only ON {table};",
    )
