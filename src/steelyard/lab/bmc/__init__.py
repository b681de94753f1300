"""Baseboard management controllers: one power and boot-device logic, spoken to by IPMI and by Redfish."""
