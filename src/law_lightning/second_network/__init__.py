"""Networks beside the user's own: copies, the reference, Co-teaching's peer, and their evaluation."""
