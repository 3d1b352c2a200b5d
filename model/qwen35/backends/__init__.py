"""How blocks are run. Each backend fulfils `base.Backend`; the engine knows no other road to the model."""
