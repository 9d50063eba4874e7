"""What users says; it hears nothing."""

from faultline.shop.contracts import UserErased, UserRegistered

SAYS = (UserRegistered.type, UserErased.type)
