"""Counterfactual twins: rows whose text follows another control token than their label's."""
