# Tables of runs from their events.jsonl, or one value: see `table` and `value` in study.sh.

# The last value of EVALUATION.METRIC in a run, or of finish:STAGE.NUMBER, what an objective reports at a stage's end; "" if there is none.
function value(run, metric,    dot, at, event, of, key, file, line, found) {
    event = "\"event\":\"evaluation\""
    of = "\"name\":\""
    if (sub(/^finish:/, "", metric)) {
        event = "\"event\":\"finish\""
        of = "\"stage\":\""
    }
    dot = index(metric, ".")
    of = of substr(metric, 1, dot - 1) "\""
    key = "\"" substr(metric, dot + 1) "\":"
    file = runs "/" run "/events.jsonl"
    found = ""
    while ((getline line < file) > 0) {
        at = index(line, key)
        if (at && index(line, event) && index(line, of)) {
            line = substr(line, at + length(key))
            sub(/[,}].*/, "", line)
            if (line ~ /^-?[0-9]/) found = line
        }
    }
    close(file)
    return found
}

# "0.123 ± 0.004" over the seeds that are there, one value alone, or a dash. Keeps the largest number of seeds in `seen`.
function cell(run, metric,    i, v, n, sum, squares) {
    n = sum = squares = 0
    for (i = 1; i <= seed_count; i++) {
        v = value(run "-" seed[i], metric)
        if (v != "") {
            values[++n] = v
            sum += v
        }
    }
    if (n > seen) seen = n
    if (n == 0) return "–"
    for (i = 1; i <= n; i++) squares += (values[i] - sum / n) ^ 2
    return n == 1 ? sprintf("%.3f", sum) : sprintf("%.3f ± %.3f", sum / n, sqrt(squares / (n - 1)))
}

BEGIN {
    if (run != "") {
        print value(run, metric)
        exit
    }
    seed_count = split(seeds, seed, " ")
    row_count = split(rows, row, ";")
    column_count = split(columns, column, ";")
    head = "| |"
    rule = "|---|"
    for (c = 1; c <= column_count; c++) {
        split(column[c], parts, "=")
        head = head " " parts[1] " |"
        rule = rule "---|"
        metrics[c] = parts[2]
    }
    print head " seeds |\n" rule "---|"
    for (r = 1; r <= row_count; r++) {
        split(row[r], parts, "=")
        text = "| " parts[1] " |"
        seen = 0
        for (c = 1; c <= column_count; c++) {
            metric = metrics[c]
            sub(/%/, parts[3], metric)
            text = text " " cell(parts[2], metric) " |"
        }
        print text " " seen " of " seed_count " |"
    }
}
