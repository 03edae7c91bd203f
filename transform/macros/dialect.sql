{# What DuckDB and PostgreSQL say differently about the tables that their Singer targets make. #}

{# The names of a table's columns, lower-case. #}
{% macro columns_of(relation) %}
    {%- set names = [] -%}
    {%- if execute -%}
        {%- for column in adapter.get_columns_in_relation(relation) -%}
            {%- do names.append(column.name | lower) -%}
        {%- endfor -%}
    {%- endif -%}
    {{- return(names) -}}
{% endmacro %}

{# A field of the tap as a column of a type; NULL when it was not selected. target-postgres keeps the field's own
   capitals, target-duckdb does not, and DuckDB does not mind. #}
{% macro field(columns, name, type) %}
    {%- if name | lower in columns -%}
        CAST("{{ name }}" AS {{ type }})
    {%- else -%}
        CAST(NULL AS {{ type }})
    {%- endif -%}
{% endmacro %}

{# An array of texts; never NULL. #}
{% macro texts(columns, name) %}
    {{- return(adapter.dispatch('texts', 'fini')(columns, name)) -}}
{% endmacro %}

{% macro duckdb__texts(columns, name) -%}
    coalesce({{ field(columns, name, 'VARCHAR[]') }}, CAST([] AS VARCHAR[]))
{%- endmacro %}

{% macro postgres__texts(columns, name) -%}
    coalesce({{ field(columns, name, 'TEXT[]') }}, CAST('{}' AS TEXT[]))
{%- endmacro %}

{# An array of objects as one JSON value; never NULL. #}
{% macro json_array(columns, name) %}
    {{- return(adapter.dispatch('json_array', 'fini')(columns, name)) -}}
{% endmacro %}

{% macro duckdb__json_array(columns, name) -%}
    coalesce({{ field(columns, name, 'JSON') }}, CAST('[]' AS JSON))
{%- endmacro %}

{% macro postgres__json_array(columns, name) -%}
    coalesce(to_jsonb({{ field(columns, name, 'JSONB[]') }}), CAST('[]' AS JSONB))
{%- endmacro %}

{# The type of JSON values. #}
{% macro json_type() %}
    {{- return(adapter.dispatch('json_type', 'fini')()) -}}
{% endmacro %}

{% macro duckdb__json_type() %}JSON{% endmacro %}

{% macro postgres__json_type() %}JSONB{% endmacro %}

{% macro json_length(array) %}
    {{- return(adapter.dispatch('json_length', 'fini')(array)) -}}
{% endmacro %}

{% macro duckdb__json_length(array) -%}
    CAST(json_array_length({{ array }}) AS INTEGER)
{%- endmacro %}

{% macro postgres__json_length(array) -%}
    jsonb_array_length({{ array }})
{%- endmacro %}

{# A JSON value's kind: 'array', 'number', 'string' and so on; NULL when there is none. #}
{% macro json_kind(value) %}
    {{- return(adapter.dispatch('json_kind', 'fini')(value)) -}}
{% endmacro %}

{% macro duckdb__json_kind(value) -%}
    CASE
        WHEN json_type({{ value }}) IN ('BIGINT', 'UBIGINT', 'DOUBLE') THEN 'number'
        ELSE lower(json_type({{ value }}))
    END
{%- endmacro %}

{% macro postgres__json_kind(value) -%}
    jsonb_typeof({{ value }})
{%- endmacro %}

{# A JSON value as text, a string without its quotes. #}
{% macro json_text(value) %}
    {{- return(adapter.dispatch('json_text', 'fini')(value)) -}}
{% endmacro %}

{% macro duckdb__json_text(value) -%}
    ({{ value }} ->> '$')
{%- endmacro %}

{% macro postgres__json_text(value) -%}
    ({{ value }} #>> '{}')
{%- endmacro %}

{# The value itself when it is an array, else an array of it alone. #}
{% macro json_as_array(value) -%}
    CASE WHEN {{ json_kind(value) }} = 'array' THEN {{ value }} ELSE {{ json_array_of(value) }} END
{%- endmacro %}

{% macro json_array_of(value) %}
    {{- return(adapter.dispatch('json_array_of', 'fini')(value)) -}}
{% endmacro %}

{% macro duckdb__json_array_of(value) -%}
    json_array({{ value }})
{%- endmacro %}

{% macro postgres__json_array_of(value) -%}
    jsonb_build_array({{ value }})
{%- endmacro %}

{# A lateral subquery of a JSON array's elements: item, and its place from 0. #}
{% macro json_elements(array) %}
    {{- return(adapter.dispatch('json_elements', 'fini')(array)) -}}
{% endmacro %}

{% macro duckdb__json_elements(array) -%}
    (
        SELECT
            unnest(CAST({{ array }} AS JSON[])) AS item,
            unnest(range(CAST(json_array_length({{ array }}) AS BIGINT))) AS place
    )
{%- endmacro %}

{% macro postgres__json_elements(array) -%}
    (
        SELECT element.item, element.number - 1 AS place
        FROM jsonb_array_elements({{ array }}) WITH ORDINALITY AS element (item, number)
    )
{%- endmacro %}

{# One short value that differs when any of the columns does. #}
{% macro fingerprint(columns) -%}
    md5(
        concat_ws(
            chr(31)
            {%- for column in columns %},
            coalesce(CAST({{ column }} AS VARCHAR), chr(30))
            {%- endfor %}
        )
    )
{%- endmacro %}

{# How many seconds lie between two times. #}
{% macro seconds_between(earlier, later) %}
    {{- return(adapter.dispatch('seconds_between', 'fini')(earlier, later)) -}}
{% endmacro %}

{% macro duckdb__seconds_between(earlier, later) -%}
    CAST(date_diff('millisecond', {{ earlier }}, {{ later }}) AS DOUBLE) / 1000
{%- endmacro %}

{% macro postgres__seconds_between(earlier, later) -%}
    CAST(extract(epoch FROM ({{ later }} - {{ earlier }})) AS DOUBLE PRECISION)
{%- endmacro %}
