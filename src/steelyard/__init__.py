"""Steelyard weighs bare-metal machines before a tenant trusts them, and keeps each tenant's machines apart."""
