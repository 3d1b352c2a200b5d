"""Room for new states: what killed processes left is swept up, and what is worth least goes first."""

import sqlite3
import time

from qwen35.cache.index import Index, forget, has

KEPT_EVICTED = 1000  # snapshots that had to make room, to say so
FRESH_S = 60.0  # younger uses count alike when room is made


def make_room(index: Index, connection: sqlite3.Connection, budget_bytes: int) -> bool:
    """Sweep up after killed processes, then evict what is worth least until the budget is kept.

    A snapshot's worth is the tokens that it spares, by byte, over the time since it was last used. What is
    being written counts, and stays. Within a transaction. Returns whether the budget is kept.
    """
    _sweep(index, connection)
    total = connection.execute("SELECT COALESCE(SUM(size_bytes), 0) FROM blobs").fetchone()[0]
    if total <= budget_bytes:
        return True
    now, victims = time.time(), []
    for key, saved, used, size_bytes in connection.execute(
        "SELECT key, saved_tokens, snapshots.used, size_bytes FROM snapshots "
        "JOIN blobs ON name = 'snapshot-' || key || '.safetensors' WHERE NOT is_evicted AND writer IS NULL"
    ):
        victims.append((saved / max(1, size_bytes) / (max(0.0, now - used) + FRESH_S), key, None))
    features = "SELECT name, used FROM blobs WHERE kind = 'features' AND writer IS NULL"
    for name, used in connection.execute(features):
        # As if they spared a token for each KiB: a picture through the encoder costs more than its
        # tokens through the model, and they are needed only where no state holds the picture.
        victims.append((1 / 1024 / (max(0.0, now - used) + FRESH_S), None, name))
    for _, key, name in sorted(victims, key=lambda victim: victim[0]):
        if total <= budget_bytes:
            break
        names = [name] if name else forget(connection, [str(key)], is_evicted=True)
        total -= index.drop(connection, names)
    return bool(total <= budget_bytes)


def _sweep(index: Index, connection: sqlite3.Connection) -> None:
    """Remove what processes that are gone left half-written; once, also what does not fit together."""
    rows = connection.execute("SELECT name, writer FROM blobs WHERE writer IS NOT NULL").fetchall()
    index.remove(connection, [name for name, writer in rows if index.is_gone(writer)])
    if index.is_tidy:
        return
    files = {path.name for path in index.blobs.iterdir()}
    for name in files:
        if name.endswith(".safetensors") and not has(connection, name):
            index.unlink(name)
    for path in (*index.blobs.glob("*.partial"), *index.folder.glob(f"{index.path.name}.*.partial*")):
        if index.is_gone(path.name.split(".")[2]):
            path.unlink(missing_ok=True)
    ready = {row[0] for row in connection.execute("SELECT name FROM blobs WHERE writer IS NULL")}
    index.remove(connection, ready - files)
    lost = connection.execute("SELECT DISTINCT key FROM needs WHERE blob NOT IN (SELECT name FROM blobs)")
    index.drop(connection, forget(connection, [row[0] for row in lost.fetchall()], is_evicted=False))
    unneeded = connection.execute(
        "SELECT name FROM blobs WHERE writer IS NULL AND kind != 'features' "
        "AND name NOT IN (SELECT blob FROM needs)"
    )
    index.drop(connection, [row[0] for row in unneeded.fetchall()])
    connection.execute(
        "DELETE FROM snapshots WHERE is_evicted AND key NOT IN "
        "(SELECT key FROM snapshots WHERE is_evicted ORDER BY used DESC LIMIT ?)",
        (KEPT_EVICTED,),
    )
    index.is_tidy = True
