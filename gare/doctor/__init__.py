"""Check if a machine has what GARE needs; checks return findings and never raise."""
