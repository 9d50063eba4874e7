"""The provider says nothing in the shop: it is not part of it, and sends webhooks."""

SAYS = ()
